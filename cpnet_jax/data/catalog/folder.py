"""Descriptor of a user's own images, made from a class file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from cpnet_jax.data.catalog.class_file import ClassTable
from cpnet_jax.data.catalog.dataset import Dataset
from cpnet_jax.data.catalog.voc import voc_palette

NAME = "folder"


@dataclass(frozen=True)
class FolderLayout:
    """The fields of config.data.folder, explained in configs/default.py."""

    images: str = "images"
    masks: str = "masks"
    image_name: str = "*"
    mask_name: str = ""
    pairs: str = ""
    classes: str = ""
    mask_format: str = "auto"
    orientation: str = "auto"
    value_range: tuple[float, float] | None = None
    val_fraction: float = 0.1


@dataclass(frozen=True, kw_only=True)
class FolderDataset(Dataset):
    """Descriptor of a user's folder.

    Attributes:
      table: class of each raw mask value and colour.
      layout: how the folder is organised.
    """

    table: ClassTable
    layout: FolderLayout = field(default_factory=FolderLayout)

    def settings(self) -> dict[str, Any]:
        """Returns every setting that affects the records, as JSON types."""
        layout = {name: value for name, value in vars(self.layout).items() if name != "classes"}
        return layout | {
            "value_range": self.layout.value_range and list(self.layout.value_range),
            "classes": list(self.table.names),
            "values": [list(item) for item in sorted(self.table.values.items())],
            "colours": [[list(colour), label] for colour, label in sorted(self.table.colours.items())],
            "rest": self.table.rest,
        }


def readable_name(dataset: str, source: str) -> str:
    """A dataset's name for people: own images have the name of their folder or archive."""
    return (PurePath(source).name if dataset == NAME else "") or dataset


def describe(table: ClassTable, layout: FolderLayout) -> FolderDataset:
    """Makes the descriptor of a folder."""
    return FolderDataset(
        name=NAME,
        classes=table.names,
        palette=table.palette,
        source_help="the folder (or archive) of your images and masks, see docs/your_own_data.md",
        table=table,
        layout=layout,
    )


def describe_prepared(settings: Mapping[str, Any]) -> FolderDataset:
    """Makes the descriptor of prepared records from their settings, see `FolderDataset.settings`."""
    names = tuple(settings["classes"])
    table = ClassTable(
        names=names,
        palette=voc_palette(len(names) + 1)[1:],
        values={value: label for value, label in settings["values"]},
        colours={tuple(colour): label for colour, label in settings["colours"]},
        where="the prepared records",
        rest=settings.get("rest"),
    )
    layout = {name: settings[name] for name in vars(FolderLayout()) if name in settings and name != "classes"}
    if layout.get("value_range"):
        layout["value_range"] = tuple(layout["value_range"])
    return describe(table, FolderLayout(**layout))
