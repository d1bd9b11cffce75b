"""What benchmarks train and measure: classifiers, families, question answering, matching, shortest paths."""
