"""Descriptor of the generated scenes, the default dataset."""

from cpnet_jax.data import scenes
from cpnet_jax.data.catalog.dataset import Dataset

SCENES = Dataset(
    name="scenes",
    classes=scenes.CLASSES,
    palette=scenes.PALETTE,
    splits={"train": 1200, "val": 200},
)
