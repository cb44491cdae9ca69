"""Descriptor of Cityscapes."""

from cpnet_jax.data.catalog.dataset import Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile

# Names and colours of training ids 0 .. 18, as in labels.py of cityscapesScripts (Cordts et al., 2016).
_CLASSES = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)

# The release's labelIds of classes 0 .. 18; evaluation excludes the others of 0 .. 33, so they are ignored.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CITYSCAPES = Dataset(
    name="cityscapes",
    classes=tuple(name for name, _ in _CLASSES),
    palette=tuple(colour for _, colour in _CLASSES),
    splits={"train": 2975, "val": 500},
    source_help=(
        "a folder with leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), from "
        "https://www.cityscapes-dataset.com/downloads after registration, or with their folders leftImg8bit and gtFine"
    ),
    # For registered users only: `data.cityscapes_account` downloads them.
    downloads=Downloads(
        folder="cityscapes",
        terms="non-commercial use only, after registration, https://www.cityscapes-dataset.com/license",
        files=(
            RemoteFile("gtFine_trainvaltest.zip", size=241_000_000),
            RemoteFile("leftImg8bit_trainvaltest.zip", size=11_000_000_000),
        ),
    ),
)
