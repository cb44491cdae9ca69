"""CPNet ("Context Prior for Scene Segmentation", CVPR 2020) in JAX."""

__version__ = "0.1.0"
