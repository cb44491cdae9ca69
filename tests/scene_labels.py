"""Labels of the synthetic datasets, and where they show a class."""

from collections.abc import Callable

import cv2
import numpy as np

from cpnet_jax.data.scenes import CLASSES

# hard class -> the class of the objects that tell it from its look-alike
CUES = {"sea": "boat", "sand": "parasol", "bed": "cabinet", "table": "chair"}
REACH = 24  # largest distance in pixels that a cue's shadow, the blur and the compression reach


def draw_labels(render: Callable[[int, int], tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Labels (N, H, W) of the first pictures of seed 0."""
    return np.stack([render(0, index)[1] for index in range(count)])


def is_class(labels: np.ndarray, name: str) -> np.ndarray:
    return labels == CLASSES.index(name)


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels from every pixel (H, W) to the nearest one in a mask."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
