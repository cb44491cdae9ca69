"""Cuts a picture into convex parts by straight lines of random position and direction."""

import numpy as np

from cpnet_jax.data.scenes.canvas import Frame

# Shares of the area that successive cuts take, each of what the cuts before it left: two parts, or in a third of the
# pictures three.
CUTS = ((1 / 2,), (1 / 2,), (1 / 3, 1 / 2))
SMALLEST_FRAME = 0.3  # shortest side, relative to the picture's
BORDER = 0.02  # width relative to the picture's height
# Of a picture. Below, hardly any lines leave room for three parts (4x4), or none (1x1).
SMALLEST_SIDE = 16


def partition(rng, size: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Draws two or three parts that cover a picture, each of which has room for objects.

    Draws again until they have: three parts take about 5 draws at 128x128, and 50 at 16x16.

    Returns:
      parts: masks, bool (h, w).
      border: the antialiased mask, float32 (h, w) in 0 .. 1, of the borders between them.

    Raises:
      ValueError: if a side is shorter than 16 pixels.
    """
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"size is {tuple(size)}: several places need at least {SMALLEST_SIDE} pixels on each side")
    shares = CUTS[rng.integers(len(CUTS))]
    while True:
        parts, lines = _cut(rng, size, shares)
        if all(part.any() and min(box(part)[2:]) >= SMALLEST_FRAME * min(size) for part in parts):
            return parts, _border(size, lines)


def _cut(rng, size, shares):
    """Draws parts, and lines: the part that a line cuts, and the distance (h, w) of each pixel from the line."""
    parts, lines = [np.ones(size, bool)], []
    y, x = (np.arange(side, dtype=np.float32) for side in size)
    for share in shares:
        rest, angle = parts.pop(), rng.uniform(0, 2 * np.pi)
        distance = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y[:, None]
        some = distance[rest][::16]
        distance -= np.quantile(some, share * rng.uniform(0.85, 1.15))
        parts += [rest & (distance < 0), rest & (distance >= 0)]
        lines.append((rest, distance))
    return parts, lines


def _border(size, lines) -> np.ndarray:
    border = np.zeros(size, np.float32)
    for rest, distance in lines:
        line = np.clip(0.5 + BORDER * size[0] / 2 - np.abs(distance), 0, 1)
        np.maximum(border, rest * line, out=border)
    return border


def box(part: np.ndarray) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the largest upright rectangle in a convex part, bool (h, w)."""
    rows = np.flatnonzero(part.any(1))
    left = part[rows].argmax(1)
    right = part.shape[1] - part[rows, ::-1].argmax(1)
    # A rectangle from row i to row j is inside a convex part if its ends are.
    width = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    height = rows - rows[:, None] + 1
    i, j = np.unravel_index(np.argmax(np.clip(width, 0, None) * np.clip(height, 0, None)), width.shape)
    return int(rows[i]), int(max(left[i], left[j])), int(height[i, j]), int(width[i, j])


def frame_in(part: np.ndarray, rng, largest: float, scale: float) -> Frame:
    """Draws the frame of a place in a part, bool (h, w), with sides of at most `largest` pixels.

    Objects at its back are whole; `scale` is the unit of their heights, relative to a side. A room's block may be far
    from them, nearer to another part's objects.
    """
    top, left, height, width = box(part)
    top, height = top + 0.15 * height, 0.85 * height  # objects may be higher than the frame
    side = min(height, width, largest)
    free_rows, free_columns = height - side, width - side
    near, far = rng.uniform((0, 0.5), (0.3, 1)).tolist()
    start, end = rng.permutation(rng.uniform((0, 0.6), (0.4, 1))).tolist()
    return Frame(
        top=top + near * free_rows,
        left=left + start * free_columns,
        height=side,
        width=side,
        scale=scale * side,
        lanes=(0.24, 0.52),
        counts=(2, 3),
        block=((end - start) * free_columns, (far - near) * free_rows),
    )
