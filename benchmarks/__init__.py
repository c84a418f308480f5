"""Benchmarks: a grid of training runs, its tables and plots, hyper-parameter search, speed comparisons."""
