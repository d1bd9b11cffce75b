"""What a person runs, and what it trains on: the command line, the demo, data sets, tasks and training loops."""
