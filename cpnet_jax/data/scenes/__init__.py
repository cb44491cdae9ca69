"""Draws the synthetic scene-parsing datasets `scenes`, the default, and `scenes_places`.

Each picture of `scenes` is a small illustration of a coast or a room with perspective, texture, light, shadows,
occlusion, noise and compression, and has a label map.

The datasets are built around the cases that a context prior is meant to solve: pairs of classes that look the same and
differ only by the other objects in the picture.

    sea / sand    the same dusky rippled ground fills the lower picture;
                  boats make it sea, parasols make it sand.
    bed / table   the same cloth-covered block stands on the floor;
                  cabinets (a bedroom) make it a bed, chairs (a dining room) a table.

Layout, surfaces and light are drawn independently of the choice between the two classes. Changing that choice
changes only these objects and the labels; all other pixels stay the same, so no local patch reveals the class.

Each picture of `scenes_places` shows two or three such places, separated by straight borders of random position and
direction. Two of them have the two classes of one pair, in every picture. So the objects of the whole picture do not
tell which is which: only those on the same side of the border do. The nearest object is the wrong one for 8 % of the
pixels of sea and sand, and for 3 % of those of bed and table (200 pictures).
"""

import numpy as np

from cpnet_jax.data.scenes import composite, places
from cpnet_jax.data.scenes.canvas import IGNORED
from cpnet_jax.data.scenes.places import CLASSES

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
    """Draws picture `index` of `scenes` with a seed; the result depends on the arguments alone.

    Returns:
      image: uint8 (h, w, 3), RGB.
      label: uint8 (h, w), an index into `CLASSES`, or 255 for ignored pixels.
    """
    return places.draw(np.random.default_rng([seed, index]), size)


def render_places(seed: int, index: int, size: tuple[int, int] = (128, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Draws picture `index` of `scenes_places` with a seed; the arguments and the result are those of `render`.

    Raises:
      ValueError: if a side is shorter than 16 pixels.
    """
    return composite.draw(np.random.default_rng([seed, index]), size)


def number_parts(seed: int, index: int, size: tuple[int, int] = (128, 128)) -> np.ndarray:
    """Returns the number of the place, uint8 (h, w), that each pixel of a picture shows.

    Args:
      seed, index, size: those of `render_places`, which also has the same errors.
    """
    return composite.part_numbers(np.random.default_rng([seed, index]), size)


__all__ = ["CLASSES", "HARD_PAIRS", "IGNORED", "PALETTE", "number_parts", "render", "render_places"]
