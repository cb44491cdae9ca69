"""Estimates a training step's time and memory on TPU slices by ahead-of-time compilation; needs no TPU."""
