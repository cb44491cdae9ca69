"""A user's own images, described by the user's class file."""

from dataclasses import dataclass, field
from typing import Any

from cpnet_jax.data.catalog.class_file import ClassTable
from cpnet_jax.data.catalog.dataset import Dataset

NAME = "folder"


@dataclass(frozen=True)
class FolderLayout:
    """How a folder is to be read; the fields of config.data.folder, which configs/default.py explains."""

    images: str = "images"
    masks: str = "masks"
    image_name: str = "*"
    mask_name: str = ""
    pairs: str = ""
    classes: str = ""
    mask_format: str = "auto"
    orientation: str = "auto"
    val_fraction: float = 0.1


@dataclass(frozen=True, kw_only=True)
class FolderDataset(Dataset):
    """The descriptor, and what else the builder needs to know.

    Attributes:
      table: what raw values and colours mean.
      layout: how the folder is read.
    """

    table: ClassTable
    layout: FolderLayout = field(default_factory=FolderLayout)

    def settings(self) -> dict[str, Any]:
        """All that decides what the records hold, in values that JSON gives back as they are."""
        layout = {name: value for name, value in vars(self.layout).items() if name != "classes"}
        return layout | {
            "classes": list(self.table.names),
            "values": [list(item) for item in sorted(self.table.values.items())],
            "colours": [[list(colour), label] for colour, label in sorted(self.table.colours.items())],
        }


def describe(table: ClassTable, layout: FolderLayout) -> FolderDataset:
    """The descriptor of a folder with that class file, read in that way."""
    return FolderDataset(
        name=NAME,
        classes=table.names,
        palette=table.palette,
        source_help="the folder (or zip archive) of your images and masks, see docs/your_own_data.md",
        table=table,
        layout=layout,
    )
