"""Builder of a user's own images and masks, described by config.data.folder and a class file."""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from cpnet_jax.data.builders.base import (
    EncodedExample,
    Pair,
    SegmentationBuilder,
    check_size,
    encode_label,
    open_image,
    stored_image,
)
from cpnet_jax.data.builders.masks import format_of, training_ids
from cpnet_jax.data.builders.pairing import FIELD, find_pairs, read_text, refuse_unpaired
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import folder as catalog
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.errors import UserError

CLASS_FILES = ("classes.txt", "classes.yaml", "classes.yml")
UPRIGHT = 1  # EXIF orientation of pixels stored upright
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG followed by a second picture, as some cameras write it
JPEG_QUALITY = 95  # quality of JPEGs that are encoded again


def describe_folder(source: str | Path, layout: catalog.FolderLayout) -> catalog.FolderDataset:
    """Reads the class file of a user's folder (or zip archive) and makes the dataset's descriptor.

    Raises:
      UserError: if the source or its class file is missing or faulty.
    """
    if not source:
        raise UserError("config.data.source is not set: set it to the folder of your images and masks")
    files = Source(Path(source).expanduser().resolve())
    field, name = f"{FIELD}.classes", layout.classes
    if not name:
        present = [name for name in files.names if _is_class_file(name)]
        if len(present) != 1:
            have = f"both {' and '.join(present)}" if present else f"none of {', '.join(CLASS_FILES)}"
            raise UserError(
                f"{files.path} has {have}: write a classes.txt there with one class name a line, or set {field}"
            )
        [name] = present
    text = read_text(files, name, field)
    return catalog.describe(parse(text, files.where(name) if name in files.names else name), layout)


def _is_class_file(name: str) -> bool:
    """Returns whether a name is a class file at the top level or one folder below, as in many archives."""
    path = PurePosixPath(name)
    return path.name in CLASS_FILES and len(path.parts) <= 2


class FolderBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads the folders and masks named by the descriptor's layout.

    Each source has its own folder of records, data_dir/folder/SOURCE-HASH; the hash is that of the source's path.

    Raises:
      UserError: if the records of this source were prepared with other classes or another layout.
    """

    name = catalog.NAME

    def __init__(self, dataset: catalog.FolderDataset, *, data_dir: Path, source: Path) -> None:
        self.DATASET = dataset
        values = (*range(len(dataset.classes)), dataset.ignore_label)
        self.LABEL_RULE = {value: value for value in values}  # pyrefly: ignore[read-only]
        # Images of the current split that have an EXIF orientation.
        self._turned: list[str] = []
        self._kept: list[str] = []
        config = tfds.core.BuilderConfig(name=_config_name(source), description="A user's own images and masks.")
        super().__init__(data_dir=data_dir, source=source, config=config)
        if self.is_prepared():
            self._check_settings()
            self._compare_with_source()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.DATASET, data_dir=Path(self.data_dir_root), source=self.source_path), ()

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        info.metadata["settings"] = self.DATASET.settings()
        return info

    def _check_settings(self) -> None:
        then, now = self.info.metadata["settings"], self.DATASET.settings()
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            raise UserError(
                f"{self.data_dir} was prepared with other {' and '.join(changed)} than {self.DATASET.table.where} and "
                f"{FIELD} now specify: delete {self.data_dir} and run --mode=prepare again, or undo the change"
            )

    def _compare_with_source(self) -> None:
        """Prints a note if images were added to or removed from the source; the records remain valid."""
        try:
            now = {split: len(pairs) for split, pairs in find_pairs(self.source, self.DATASET.layout)[0].items()}
        except UserError:  # the source is being edited, or is gone
            return
        then = {split: info.num_examples for split, info in self.info.splits.items()}
        if now != then:
            print(
                f"Note: {self.source.path} now holds {_counts(now)} images, {self.data_dir} was prepared from "
                f"{_counts(then)}: to update it, delete {self.data_dir} and run --mode=prepare again",
                flush=True,
            )

    def refuse_unpaired(self, unpaired: dict[str, str], lacks: str) -> None:
        refuse_unpaired(self.source, unpaired, lacks)

    def pairs(self) -> dict[str, list[Pair]]:
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[dict[str, list[Pair]], str]:
        """The pairs of each split, and the format of all masks: as configured, or as the first one is stored."""
        splits, summary = find_pairs(self.source, self.DATASET.layout, self.refuse_unpaired)
        mask_format = self.DATASET.layout.mask_format
        if mask_format == "auto":
            first = splits["train"][0].label
            mask_format = format_of(open_image(self.source.read(first), self.source.where(first)))
        print(f"{self.source.path}: {summary}; masks are read as {mask_format}", flush=True)
        return splits, mask_format

    def examples(self) -> dict[str, Iterable[EncodedExample]]:
        return {split: self._with_notes(split, examples) for split, examples in super().examples().items()}

    def _with_notes(self, split: str, examples: Iterable[EncodedExample]) -> Iterator[EncodedExample]:
        """Yields the examples, then prints what was done with images that have an EXIF orientation."""
        turned, kept = self._turned, self._kept = [], []
        yield from examples
        for names, fate in ((turned, "turned as their EXIF orientation says"), (kept, "left as they are stored")):
            if names:
                note = f"Note: {len(names)} images of {split} were {fate}, to fit their masks (e.g. {min(names)})"
                print(note, file=sys.stderr)  # stdout is hidden while TFDS writes

    def read_example(self, pair: Pair) -> EncodedExample:
        where = self.source.where
        data = self.source.read(pair.image)
        image = open_image(data, where(pair.image))
        mask = open_image(self.source.read(pair.label), where(pair.label))
        file_format = image.format
        to_be_turned = self._to_be_turned(pair, image, mask.size)
        if to_be_turned:
            image = ImageOps.exif_transpose(image)
        if to_be_turned or file_format not in (*JPEGS, "PNG") or image.mode == "CMYK":
            data = _encode(image, file_format or "", where(pair.image))
        check_size(self.source, pair, image.size, mask.size)
        return pair.name, stored_image(data, where(pair.image)), encode_label(self._ids(pair, mask))

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """Returns training ids, since the class file defines what a mask's raw values mean."""
        return self._ids(pair, open_image(self.source.read(pair.label), self.source.where(pair.label)))

    def _ids(self, pair: Pair, mask: Image.Image) -> UInt8[np.ndarray, "h w"]:
        assumed = self.DATASET.layout.mask_format == "auto"
        return training_ids(mask, self.DATASET.table, self._found[1], self.source.where(pair.label), assumed=assumed)

    def _to_be_turned(self, pair: Pair, image: Image.Image, mask_size: tuple[int, int]) -> bool:
        """Returns whether to apply the image's EXIF orientation, so that it fits its mask."""
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        choice = self.DATASET.layout.orientation
        if orientation not in range(UPRIGHT + 1, 9) or choice == "stored":
            return False
        turned_size = image.size[::-1] if orientation >= 5 else image.size
        if choice == "auto" and turned_size == image.size == mask_size:
            raise UserError(
                f"{self.source.where(pair.image)} has an EXIF orientation ({orientation}), and its size does not show "
                f"whether its mask is turned by it: set {FIELD}.orientation to 'turned' if it is, else to 'stored'"
            )
        turned = mask_size == turned_size
        (self._turned if turned else self._kept).append(pair.image)
        return turned


def _counts(images: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in sorted(images.items()))


def _config_name(source: Path) -> str:
    readable = re.sub(r"[^\w.-]+", "_", source.name)
    return f"{readable}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"


def _encode(image: Image.Image, file_format: str, where: str) -> bytes:
    """Encodes a JPEG as a JPEG, anything else losslessly as a PNG."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{where} has more than 8 bits a channel ({image.mode}): convert it to an 8-bit image")
    stream = BytesIO()
    if file_format in JPEGS:
        image.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.convert("RGB").save(stream, "PNG")
    return stream.getvalue()
