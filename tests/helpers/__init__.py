"""Shared helpers of tests: paths, processes, networks, checkpoints, drawn data, comparisons."""
