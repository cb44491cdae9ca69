"""Tables of runs that are compared: what to run, where, and what came of it. See benchmarks/ablation.py."""
