"""Compares trained networks: their figures, the same images, and their configs, on one page."""
