"""What a descriptor says."""

from dataclasses import dataclass, field

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
      optional_class: one that some leave out of training or of the figures and others count; evaluations then say the
        mIoU both ways. It may be among the classes or not; empty where there is none.
      source_help: how to get the raw files; empty where none are needed.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    train_split: str = "train"
    eval_split: str = "val"
    splits: dict[str, int] = field(default_factory=dict)
    source_help: str = ""
    optional_class: str = ""
    ignore_label: int = 255

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{self.name} has {len(self.classes)} classes but {len(self.palette)} colours")
