"""The embedded default dataset: `data.scenes` rendered once into records."""

from collections.abc import Iterator
from typing import Any

import cv2
import tensorflow_datasets as tfds

from cpnet_jax.data import scenes
from cpnet_jax.data.builders.base import SegmentationBuilder, encode_label
from cpnet_jax.data.catalog import SCENES

# One stream of scenes a split, so that the splits never share an image whatever their sizes.
SEEDS = {"train": 0, "val": 1}
JPEG_QUALITY = 92


class ScenesBuilder(SegmentationBuilder, skip_registration=True):
    """Needs no source."""

    name = "scenes"
    DATASET = SCENES

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(_examples(split, count)) for split, count in SCENES.splits.items()}


def _examples(split: str, count: int) -> Iterator[tuple[str, bytes, bytes]]:
    for index in range(count):
        image, label = scenes.render(SEEDS[split], index)
        # JPEG as in photographs, its blocks and ringing included.
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        yield f"{split}_{index:05d}", jpeg, encode_label(label)
