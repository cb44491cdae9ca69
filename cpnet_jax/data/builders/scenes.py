"""Builders of the generated scenes."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2

from cpnet_jax.data import scenes
from cpnet_jax.data.builders.base import EncodedExample, SegmentationBuilder, encode_label
from cpnet_jax.data.catalog import SCENES, SCENES_PLACES

# Each split has its own seed, so that splits of any size share no image.
SEEDS = {"train": 0, "val": 1}
JPEG_QUALITY = 92


class ScenesBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that renders `data.scenes`; needs no source."""

    name = "scenes"
    DATASET = SCENES
    RENDER = staticmethod(scenes.render)

    def examples(self) -> dict[str, Iterator[EncodedExample]]:
        return {split: _examples(self.RENDER, split, count) for split, count in self.DATASET.splits.items()}


class ScenesPlacesBuilder(ScenesBuilder, skip_registration=True):
    """Builder of pictures with several places."""

    name = "scenes_places"
    DATASET = SCENES_PLACES
    RENDER = staticmethod(scenes.render_places)


def _examples(render: Callable[..., Any], split: str, count: int) -> Iterator[EncodedExample]:
    for index in range(count):
        image, label = render(SEEDS[split], index)
        # JPEG, so that images have the compression artefacts of photographs.
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        yield f"{split}_{index:05d}", jpeg, encode_label(label)
