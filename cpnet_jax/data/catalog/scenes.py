"""Descriptors of the generated scenes: one place in a picture, which is the default dataset, or several."""

from dataclasses import replace

from cpnet_jax.data import scenes
from cpnet_jax.data.catalog.dataset import Dataset

SCENES = Dataset(
    name="scenes",
    classes=scenes.CLASSES,
    palette=scenes.PALETTE,
    splits={"train": 1200, "val": 200},
)
SCENES_PLACES = replace(SCENES, name="scenes_places")
