"""The type of dataset descriptors."""

from dataclasses import dataclass, field

from cpnet_jax.data.catalog.downloads import Downloads

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """Descriptor of a dataset.

    Attributes:
      name: name of the dataset, its builder and its folder of prepared records.
      classes: names of the classes, in order; labels are 0 .. len(classes) - 1 or `ignore_label`.
      palette: RGB colour of each class, 0 .. 255.
      train_split, eval_split: default splits to train and evaluate on.
      splits: split -> published number of examples.
      source_help: where to get the raw files; empty if none are needed.
      downloads: the published files; None if a program cannot fetch them.
      optional_class: a class that some publications exclude; evaluations then report the mIoU with and without it. It
        need not be one of the classes. Empty if there is no such class.
      ignore_label: label of pixels that are neither trained nor evaluated on.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    train_split: str = "train"
    eval_split: str = "val"
    splits: dict[str, int] = field(default_factory=dict)
    source_help: str = ""
    downloads: Downloads | None = None
    optional_class: str = ""
    ignore_label: int = 255

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{self.name} has {len(self.classes)} classes but {len(self.palette)} colours")
