"""`scenes`: a synthetic scene-parsing dataset drawn on demand, the project's default data.

Each picture is a small illustration of a coast or of a room, with perspective, texture,
light, cast shadows, occlusion, noise and compression, and a label map to go with it.

The dataset is built around the hard cases that a context prior is meant to solve: two
classes that share one look and are told apart only by what else the picture holds.

    sea / sand    the same dusky rippled ground fills the lower picture;
                  boats make it sea, parasols make it sand.
    bed / table   the same cloth-covered block stands on the floor;
                  cabinets (a bedroom) make it a bed, chairs (a dining room) a table.

A picture's layout, surfaces and light come from random streams that know nothing of the
coin which picks the member of the pair. Flipping that coin changes the telling objects
and the labels, and leaves every other pixel as it was: no local patch can give it away.
"""

import numpy as np

from cpnet_jax.data.scenes.canvas import IGNORED
from cpnet_jax.data.scenes.places import CLASSES, draw

PALETTE = (
    (140, 195, 240),  # sky
    (20, 90, 170),  # sea
    (235, 205, 130),  # sand
    (70, 150, 50),  # grass
    (250, 250, 250),  # boat
    (230, 50, 60),  # parasol
    (190, 170, 180),  # wall
    (125, 80, 45),  # floor
    (130, 60, 180),  # bed
    (250, 140, 30),  # table
    (0, 200, 180),  # chair
    (70, 70, 75),  # cabinet
)

HARD_PAIRS = (("sea", "sand"), ("bed", "table"))


def render(seed: int, index: int, size: tuple[int, int] = (128, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Draw picture `index` of the dataset `seed`, a pure function of its arguments.

    Returns
    -------
    image : (H, W, 3) uint8, RGB.
    label : (H, W) uint8, a position in `CLASSES`, or 255 where it is to be ignored.
    """
    return draw(np.random.default_rng([seed, index]), size)


__all__ = ["CLASSES", "HARD_PAIRS", "IGNORED", "PALETTE", "render"]
