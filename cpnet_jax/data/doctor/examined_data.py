"""The data to examine: a builder's raw files, or prepared records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data import builders
from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, open_image
from cpnet_jax.data.builders.pairing import nearest
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.doctor.findings import Finding
from cpnet_jax.data.records import Records, read_record
from cpnet_jax.data.value_range import Extremes, ValueRange

# Endings of label files that are images. Others, such as lists of polygons, may hold the labels of many images.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
# Raw values of one class that the report shows at most.
SHOWN_SPELLINGS = 4


@dataclass(frozen=True)
class Entry:
    """An image and its label, not read yet; the functions that read raise UserError if they cannot.

    Attributes:
      split: name of its split.
      image, label: names for messages.
      image_file: returns the image's bytes.
      label_file: returns the label's bytes; None if the label is not an image file.
      raw_label: returns the label's raw values.
      to_be_turned: returns whether training uses the image turned by its EXIF orientation, from its stored (width,
        height), its orientation and the label's (width, height); raises UserError if that has to be configured.
    """

    split: str
    image: str
    label: str
    image_file: Callable[[], bytes]
    label_file: Callable[[], bytes] | None
    raw_label: Callable[[], Integer[np.ndarray, "h w"]]
    to_be_turned: Callable[[tuple[int, int], int, tuple[int, int]], bool] = lambda *_: False


@dataclass(frozen=True)
class ExaminedData:
    """The pairs of a dataset to examine.

    Attributes:
      dataset: the dataset's descriptor.
      origin: path of the raw files or records.
      rule: raw label value -> training id.
      splits: split -> its pairs.
      unpaired: files without a partner.
      find_range: returns the value range by which preparing scales images of more than 8 bits, from their extremes;
        raises ValueError if they show none.
      stored_as: raw label value -> how the label files store it, if they store it in another way.
      in_colours: whether they show classes by colours, which have no order.
      key: NAME-HASH of a user's folder and of how it is read, as its prepared records are named; else empty.
    """

    dataset: Dataset
    origin: str
    rule: dict[int, int]
    splits: dict[str, list[Entry]]
    unpaired: list[Finding] = field(default_factory=list)
    find_range: Callable[[Mapping[str, Extremes]], ValueRange | None] = lambda extremes: None
    stored_as: dict[int, list[str]] = field(default_factory=dict)
    in_colours: bool = False
    key: str = ""

    def stored(self, raw: int) -> str:
        """Returns how the label files store a raw value: "7", "7, 8" or "128 64 128"; "-" if they cannot."""
        if not self.stored_as:
            return str(raw)
        spellings = self.stored_as.get(raw, ["-"])
        return ", ".join(spellings[:SHOWN_SPELLINGS]) + (", ..." if len(spellings) > SHOWN_SPELLINGS else "")

    def becomes(self, raw: int) -> str | None:
        """Returns what a raw value means: a class's name, "ignored", or None if the value is unknown."""
        if raw not in self.rule:
            return None
        trained = self.rule[raw]
        return "ignored" if trained == self.dataset.ignore_label else self.dataset.classes[trained]


def from_source(builder: SegmentationBuilder) -> ExaminedData:
    """Examines a builder's raw files; raises UserError if the source is not what the builder reads."""
    findings: list[Finding] = []

    def collect(unpaired: dict[str, str], lacks: str) -> None:
        kind = "image_without_label" if lacks == "label" else "label_without_image"
        for file, pattern in unpaired.items():
            near = nearest(builder.source, file, lacks)
            findings.append(Finding(kind, file, f"none among {pattern}" + (f", but there is {near}" if near else "")))

    builder.refuse_unpaired = collect
    builder.skip_unreadable = True  # an unreadable file is a finding, too
    splits = {split: [_file_entry(builder, split, p) for p in pairs] for split, pairs in builder.pairs().items()}
    return ExaminedData(
        dataset=builder.DATASET,
        origin=str(builder.source.path),
        rule=builder.LABEL_RULE,
        splits=splits,
        unpaired=findings,
        find_range=builder.find_range,
        stored_as=builder.stored_as(),
        in_colours=builder.in_colours(),
        key=_key(builder),
    )


def _file_entry(builder: SegmentationBuilder, split: str, pair: Pair) -> Entry:
    is_image = pair.label.lower().endswith(IMAGE_ENDINGS)
    return Entry(
        split,
        pair.image,
        pair.label if is_image else f"{pair.label} ({pair.name})",
        image_file=partial(builder.source.read, pair.image),
        label_file=partial(builder.source.read, pair.label) if is_image else None,
        raw_label=partial(builder.read_label, pair),
        to_be_turned=partial(builder.to_be_turned, pair),
    )


def from_records(builder: SegmentationBuilder) -> ExaminedData:
    """Examines the records of a prepared dataset, whose raw label values are training ids."""
    dataset = builder.DATASET
    rule = {value: value for value in (*range(len(dataset.classes)), dataset.ignore_label)}
    splits = {}
    for split in builder.info.splits:
        records = builders.records(builder, split)
        splits[split] = [_record_entry(records, split, index) for index in range(len(records))]
    return ExaminedData(dataset, str(builder.data_dir), rule, splits, key=_key(builder))


def _key(builder: SegmentationBuilder) -> str:
    return builder.builder_config.name if builder.builder_config else ""


def _record_entry(records: Records, split: str, index: int) -> Entry:
    def read(part: str) -> bytes:
        return read_record(records, index)[part]

    def raw_label() -> Integer[np.ndarray, "h w"]:
        return np.asarray(open_image(read("label"), label))

    image, label = (f"{split} record {index} ({part})" for part in ("image", "label"))
    return Entry(split, image, label, partial(read, "image"), partial(read, "label"), raw_label)
