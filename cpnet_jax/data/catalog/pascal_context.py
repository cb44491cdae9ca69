"""Descriptors of PASCAL-Context: with 59 classes, and with the background as the 60th."""

from dataclasses import replace

from cpnet_jax.data.catalog.dataset import Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile
from cpnet_jax.data.catalog.voc import voc_palette

BACKGROUND = "background"

# The 59 most frequent of the release's 459 categories (Mottaghi et al., 2014), in the release's order.
PASCAL_CONTEXT = Dataset(
    name="pascal_context",
    classes=(
        "aeroplane",
        "bag",
        "bed",
        "bedclothes",
        "bench",
        "bicycle",
        "bird",
        "boat",
        "book",
        "bottle",
        "building",
        "bus",
        "cabinet",
        "car",
        "cat",
        "ceiling",
        "chair",
        "cloth",
        "computer",
        "cow",
        "cup",
        "curtain",
        "dog",
        "door",
        "fence",
        "floor",
        "flower",
        "food",
        "grass",
        "ground",
        "horse",
        "keyboard",
        "light",
        "motorbike",
        "mountain",
        "mouse",
        "person",
        "plate",
        "platform",
        "pottedplant",
        "road",
        "rock",
        "sheep",
        "shelves",
        "sidewalk",
        "sign",
        "sky",
        "snow",
        "sofa",
        "table",
        "track",
        "train",
        "tree",
        "truck",
        "tvmonitor",
        "wall",
        "water",
        "window",
        "wood",
    ),
    palette=voc_palette(60)[1:],
    optional_class=BACKGROUND,
    # Sizes of VOC2010 with the release's .mat files; the Detail API's trainval_merged.json has 4,996 / 5,104.
    splits={"train": 4_998, "val": 5_105},
    source_help=(
        "the folder with VOCdevkit/VOC2010 (JPEGImages, ImageSets) as unpacked from VOCtrainval_03-May-2010.tar "
        "(1.3 GB, host.robots.ox.ac.uk/pascal/VOC/voc2010) and, in or beside it, the labels in one of these forms: "
        "SegmentationClassContext/*.png with ImageSets/SegmentationContext, or the Detail API's trainval_merged.json "
        "(codalabuser.blob.core.windows.net/public/trainval_merged.json), or trainval/*.mat (trainval.tar.gz, 30.7 MB, "
        "cs.stanford.edu/~roozbeh/pascal-context or roozbehm.info/pascal-context), or 59_context_labels/*.png with "
        "59_labels.txt from the same page"
    ),
    # The checksum is that in torchvision's voc.py. The labels are the release's trainval/*.mat.
    downloads=Downloads(
        folder="pascal_context",
        terms="images under Flickr's terms of use, http://host.robots.ox.ac.uk/pascal/VOC/voc2010, and labels as on "
        "https://cs.stanford.edu/~roozbeh/pascal-context",
        files=(
            RemoteFile(
                "VOCtrainval_03-May-2010.tar",
                size=1_300_000_000,
                addresses=("http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",),
                digest="md5:da459979d0c395079b5c75ee67908abb",
            ),
            RemoteFile(
                "trainval.tar.gz",
                size=30_700_000,
                addresses=("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",),
            ),
        ),
    ),
)

# All other pixels are a class of their own instead of being ignored.
PASCAL_CONTEXT_60 = replace(
    PASCAL_CONTEXT,
    name="pascal_context_60",
    classes=(BACKGROUND, *PASCAL_CONTEXT.classes),
    palette=voc_palette(60),
)
