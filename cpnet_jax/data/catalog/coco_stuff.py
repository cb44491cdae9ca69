"""Descriptor of COCO-Stuff, the version with all images of COCO 2017 ("164k"): 80 things and 91 stuff classes."""

from cpnet_jax.data.catalog.dataset import Dataset
from cpnet_jax.data.catalog.downloads import Downloads, RemoteFile
from cpnet_jax.data.catalog.voc import voc_palette

# fmt: off
# Names of the ids 1 .. 182, as in labels.txt of github.com/nightrome/cocostuff (Caesar et al., 2018).
NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk", "toilet",
    "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    "hair brush", "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard",
    "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain",
    "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile",
    "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other",
    "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net",
    "paper", "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad",
    "river", "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow",
    "solid-other", "stairs", "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree",
    "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood",
    "water-other", "waterdrops", "window-blind", "window-other", "wood",
)
# COCO has no segmentation of these, so no pixel has their ids.
UNUSED = (
    "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush",
)
# fmt: on
_CLASSES = tuple(name for name in NAMES if name not in UNUSED)

COCO_STUFF = Dataset(
    name="coco_stuff",
    classes=_CLASSES,
    palette=voc_palette(len(_CLASSES) + 1)[1:],
    splits={"train": 118_287, "val": 5_000},
    source_help=(
        "a folder with train2017.zip (19 GB) and val2017.zip (0.8 GB) from images.cocodataset.org/zips and "
        "stuffthingmaps_trainval2017.zip (0.7 GB) from github.com/nightrome/cocostuff, or with what they hold in "
        "images/ and annotations/"
    ),
    # Sizes and checksums of the images are those that TFDS records for its dataset "coco".
    downloads=Downloads(
        folder="coco_stuff",
        terms="images under Flickr's terms of use, annotations under CC BY 4.0, "
        "https://github.com/nightrome/cocostuff#licensing",
        files=(
            RemoteFile(
                "stuffthingmaps_trainval2017.zip",
                size=659_000_000,
                addresses=(
                    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                ),
            ),
            RemoteFile(
                "val2017.zip",
                size=815_585_330,
                addresses=("http://images.cocodataset.org/zips/val2017.zip",),
                digest="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            RemoteFile(
                "train2017.zip",
                size=19_336_861_798,
                addresses=("http://images.cocodataset.org/zips/train2017.zip",),
                digest="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
    ),
)
