"""Benchmarks: the tables of the papers and our own, and scripts that measure speed.

Table: a table of a paper, or of our own, as data: rows, claims and an experiment; one file in ``tables/``.
Row: a network, a way to make it within a budget, and the options of that way.
Experiment: a kind of training and its metrics, such as the test error of an image classifier.
Task: a data set of some size, a recipe and a device, chosen by the experiment; all rows of a table share it.
Run: one row trained with one seed; one JSON file, named by a hash of everything that determines it.
Claim: a statement that some rows end ahead of others, judged by differences that are paired by seed.
"""
