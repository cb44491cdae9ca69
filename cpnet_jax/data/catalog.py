"""One descriptor per dataset: what its classes are called and look like, and how it is got."""

from dataclasses import dataclass, field

from cpnet_jax.data import scenes
from cpnet_jax.errors import UserError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """A dataset as everything after its builder sees it.

    Attributes:
      name: also of its builder and of its folder of prepared records.
      classes: name of class i at place i; labels are 0 .. len(classes) - 1 or `ignore_label`.
      palette: RGB of each class in pictures.
      train_split, eval_split: what a run trains and evaluates on unless its config says otherwise.
      splits: expected number of examples.
      source_help: how to get the raw files; empty where none are needed.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    train_split: str = "train"
    eval_split: str = "val"
    splits: dict[str, int] = field(default_factory=dict)
    source_help: str = ""
    ignore_label: int = 255

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{self.name} has {len(self.classes)} classes but {len(self.palette)} colours")


SCENES = Dataset(
    name="scenes",
    classes=scenes.CLASSES,
    palette=scenes.PALETTE,
    splits={"train": 1200, "val": 200},
)

# The SegNet split and its 11 classes (Badrinarayanan et al., 2017); the colours are the release's of CamVid.
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
        "the SegNet version of CamVid: a folder with train, trainannot, val, valannot (and test, testannot), "
        "480x360 PNGs, from the SegNet tutorial's repository"
    ),
)

DATASETS = {dataset.name: dataset for dataset in (CAMVID, SCENES)}


def get(name: str) -> Dataset:
    """The descriptor of that name.

    Raises:
      UserError: if there is none.
    """
    if name not in DATASETS:
        raise UserError(
            f"config.data.name is {name!r}, which this version cannot prepare: use one of {sorted(DATASETS)}"
        )
    return DATASETS[name]
