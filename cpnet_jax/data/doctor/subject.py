"""What is examined: a builder's raw source, or records that were prepared from one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data import builders
from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, open_image
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.doctor.findings import Finding

# Labels in these are pictures of their own; others, a table of polygons for instance, may be shared by many images.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")


@dataclass(frozen=True)
class Entry:
    """An image and its label, not read yet. All that reads raises UserError where it cannot.

    Attributes:
      split: where it belongs.
      image, label: how messages name them.
      image_file: the image's bytes.
      label_file: those of the label, where it is a picture.
      raw_label: the label's raw values.
    """

    split: str
    image: str
    label: str
    image_file: Callable[[], bytes]
    label_file: Callable[[], bytes] | None
    raw_label: Callable[[], Integer[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Subject:
    """Attributes:
    dataset: its descriptor.
    origin: where the pairs lie.
    rule: raw label value -> training id.
    splits: the pairs of each.
    unpaired: files without a partner.
    """

    dataset: Dataset
    origin: str
    rule: dict[int, int]
    splits: dict[str, list[Entry]]
    unpaired: list[Finding] = field(default_factory=list)

    def becomes(self, raw: int) -> str | None:
        """What a raw value means: a class's name, "ignored", or None where the table has no such value."""
        if raw not in self.rule:
            return None
        trained = self.rule[raw]
        return "ignored" if trained == self.dataset.ignore_label else self.dataset.classes[trained]


def raw_subject(builder: SegmentationBuilder) -> Subject:
    """The files of the source as they are; UserError where the source as a whole is not what the builder reads."""
    unpaired: list[Finding] = []

    def collect(lonely: dict[str, str], lacks: str) -> None:
        kind = "image_without_label" if lacks == "label" else "label_without_image"
        unpaired.extend(Finding(kind, file, f"none among {there}") for file, there in lonely.items())

    builder.refuse_lonely = collect
    splits = {split: [_file_entry(builder, split, p) for p in pairs] for split, pairs in builder.pairs().items()}
    return Subject(builder.DATASET, str(builder.source.path), builder.LABEL_RULE, splits, unpaired)


def _file_entry(builder: SegmentationBuilder, split: str, pair: Pair) -> Entry:
    picture = pair.label.lower().endswith(PICTURES)
    return Entry(
        split,
        pair.image,
        pair.label if picture else f"{pair.label} ({pair.name})",
        image_file=partial(builder.source.read, pair.image),
        label_file=partial(builder.source.read, pair.label) if picture else None,
        raw_label=partial(builder.read_label, pair),
    )


def prepared_subject(builder: SegmentationBuilder) -> Subject:
    """The records of a prepared dataset; their raw values are training ids."""
    dataset = builder.DATASET
    rule = {value: value for value in (*range(len(dataset.classes)), dataset.ignore_label)}
    splits = {}
    for split in builder.info.splits:
        records = builders.records(builder, split)
        splits[split] = [_record_entry(records, split, index) for index in range(len(records))]
    return Subject(dataset, str(builder.data_dir), rule, splits)


def _record_entry(records: Sequence[dict[str, Any]], split: str, index: int) -> Entry:
    def read(part: str) -> bytes:
        return records[index][part]

    def raw_label() -> Integer[np.ndarray, "h w"]:
        return np.asarray(open_image(read("label"), label))

    image, label = (f"{split} record {index} ({part})" for part in ("image", "label"))
    return Entry(split, image, label, partial(read, "image"), partial(read, "label"), raw_label)
