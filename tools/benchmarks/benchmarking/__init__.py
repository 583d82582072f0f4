"""Implementations of the commands in `tools/benchmarks`. A command parses its options, then imports its module here."""
