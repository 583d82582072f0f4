"""What several test modules share: paths and processes, networks and checkpoints, drawn data, comparisons."""
