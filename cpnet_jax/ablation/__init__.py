"""Runs a table of experiments to compare, and reports their results. See benchmarks/ablation.py."""
