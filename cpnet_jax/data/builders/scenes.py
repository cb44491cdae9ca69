"""The embedded default dataset: `data.scenes` rendered once into records."""

from collections.abc import Iterator

import cv2

from cpnet_jax.data import scenes
from cpnet_jax.data.builders.base import Example, SegmentationBuilder, encode_label
from cpnet_jax.data.catalog import SCENES

# One stream of scenes a split, so that the splits never share an image whatever their sizes.
SEEDS = {"train": 0, "val": 1}
JPEG_QUALITY = 92


class ScenesBuilder(SegmentationBuilder, skip_registration=True):
    """Needs no source."""

    name = "scenes"
    DATASET = SCENES

    def examples(self) -> dict[str, Iterator[Example]]:
        return {split: _examples(split, count) for split, count in SCENES.splits.items()}


def _examples(split: str, count: int) -> Iterator[Example]:
    for index in range(count):
        image, label = scenes.render(SEEDS[split], index)
        # JPEG as in photographs, its blocks and ringing included.
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        yield f"{split}_{index:05d}", jpeg, encode_label(label)
