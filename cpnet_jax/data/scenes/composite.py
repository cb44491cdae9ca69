"""Draws pictures of two or three places side by side, with a border between them.

In each picture two places are of one kind and have the two classes of its hard pair.
"""

import numpy as np

from cpnet_jax.data.scenes import textures
from cpnet_jax.data.scenes.canvas import IGNORED
from cpnet_jax.data.scenes.partition import frame_in, partition
from cpnet_jax.data.scenes.places import KINDS, paint

SCALES = (1.8, 1.4)  # of the objects of a coast and a room; they would be too small for their frames otherwise
LARGEST_FRAME = 0.6  # side of a place's frame, relative to the picture's shorter one
GENERATORS = 6  # of a picture: choice, layout, film, and each of up to three parts


def draw(rng, size, members: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws a picture, uint8 (h, w, 3), and its labels, uint8 (h, w).

    `members` (0 or 1 for each part) selects each part's class of the hard pair; by default they are drawn. The
    generators are split, so layout, surfaces and film do not depend on it.
    """
    choice, layout, film, *of_parts = rng.spawn(GENERATORS)
    parts, border = partition(layout, size)
    kinds, coins = _choose(choice, len(parts))
    image, label = np.zeros((*size, 3), np.float32), np.zeros(size, np.uint8)
    for part, kind, coin, own in zip(parts, kinds, members or coins, of_parts, strict=False):
        box = _bounding_box(part)
        _paint_part(image[box], label[box], part[box], kind, coin, own, LARGEST_FRAME * min(size))
    image += border[..., None] * (film.uniform(0.05, 0.95) - image)
    label[border > 0.5] = IGNORED
    return textures.expose(film, image), label


def part_numbers(rng, size) -> np.ndarray:
    """Returns the number of the part, uint8 (h, w), that each pixel of `draw` with an equal generator belongs to."""
    _, layout, *_ = rng.spawn(GENERATORS)
    parts, _ = partition(layout, size)
    return np.argmax(parts, axis=0).astype(np.uint8)


def _choose(choice, count: int) -> tuple[list[int], list[int]]:
    """Draws the kind and the coin of each part; two of one kind have opposite coins."""
    kind, third = choice.integers(KINDS, size=2)
    coin, other = choice.integers(2, size=2)
    kinds, coins = [kind, kind, third][:count], [coin, 1 - coin, other][:count]
    order = choice.permutation(count)
    return [int(kinds[i]) for i in order], [int(coins[i]) for i in order]


def _paint_part(image, label, part, kind, coin, own, largest):
    """Paints a place, in its own light, where a mask is set."""
    layout, surface, cue, sun = own.spawn(4)
    frame = frame_in(part, layout, largest, SCALES[kind])
    canvas = paint(kind, coin, frame, part.shape, layout, surface, cue)
    lit = canvas.image * textures.light(sun, part.shape)
    np.copyto(image, lit, where=part[..., None])
    np.copyto(label, canvas.label, where=part)


def _bounding_box(part: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
