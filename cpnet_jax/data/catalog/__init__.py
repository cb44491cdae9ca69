"""Dataset descriptors: names and colours of the classes, splits, and where to get the raw files.

The descriptor of a user's own folder is made from a class file, see `catalog.folder`.
"""

from cpnet_jax.data.catalog import folder
from cpnet_jax.data.catalog.ade20k import ADE20K
from cpnet_jax.data.catalog.camvid import CAMVID
from cpnet_jax.data.catalog.cityscapes import CITYSCAPES
from cpnet_jax.data.catalog.coco_stuff import COCO_STUFF
from cpnet_jax.data.catalog.dataset import Colour, Dataset
from cpnet_jax.data.catalog.folder import FolderDataset, FolderLayout
from cpnet_jax.data.catalog.pascal_context import PASCAL_CONTEXT, PASCAL_CONTEXT_60
from cpnet_jax.data.catalog.scenes import SCENES, SCENES_PLACES
from cpnet_jax.data.catalog.voc import VOC
from cpnet_jax.errors import UserError, quoted

__all__ = [
    "ADE20K",
    "CAMVID",
    "CITYSCAPES",
    "COCO_STUFF",
    "DATASETS",
    "PASCAL_CONTEXT",
    "PASCAL_CONTEXT_60",
    "SCENES",
    "SCENES_PLACES",
    "VOC",
    "Colour",
    "Dataset",
    "FolderDataset",
    "FolderLayout",
    "get",
]

DATASETS = {
    dataset.name: dataset
    for dataset in (
        ADE20K,
        CAMVID,
        CITYSCAPES,
        COCO_STUFF,
        PASCAL_CONTEXT,
        PASCAL_CONTEXT_60,
        SCENES,
        SCENES_PLACES,
        VOC,
    )
}


def get(name: str) -> Dataset:
    """Looks a descriptor up by name.

    Raises:
      UserError: if the name is unknown.
    """
    if name not in DATASETS:
        known = sorted([*DATASETS, folder.NAME])
        raise UserError(
            f"config.data.name is {quoted(name)}, which is not a known dataset: use one of {known}, or add yours to "
            "DATASETS in your config file"
        )
    return DATASETS[name]
