"""Bilinear interpolation along one axis, as a matrix."""

import numpy as np
from jaxtyping import Float


def interpolation(size: int, cells: int) -> Float[np.ndarray, "size cells"]:
    """Weights of bilinear interpolation from cells to `size` pixels: half-pixel centres, clamped at the edges."""
    places = (np.arange(size) + 0.5) * cells / size - 0.5
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
    return weights / weights.sum(axis=1, keepdims=True)
