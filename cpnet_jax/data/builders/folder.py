"""Builder of a user's own images and masks, described by config.data.folder and a class file."""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from cpnet_jax.data.builders.base import (
    EncodedExample,
    Pair,
    SegmentationBuilder,
    check_label_file,
    check_size,
    encode_image,
    encode_label,
    open_image,
    rgb_pixels,
)
from cpnet_jax.data.builders.deep_images import range_of_images
from cpnet_jax.data.builders.masks import Palettes, format_of, training_ids
from cpnet_jax.data.builders.pairing import FIELD, find_pairs, read_text, refuse_unpaired
from cpnet_jax.data.builders.prepared_folders import note_on_others
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import folder as catalog
from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.data.image_files import UPRIGHT, bits_of, orientation_of, turn_upright, upright_size
from cpnet_jax.data.large_images import work_on
from cpnet_jax.data.value_range import Extremes, ValueRange, find_value_range
from cpnet_jax.errors import UserError, quoted

OWN_SPLITS = "own_splits"  # entry of the metadata: splits that the source has; others were drawn
FILES = "files"  # entry of the metadata: hash of the names of the images and masks of each split
CLASS_FILES = ("classes.txt", "classes.yaml", "classes.yml")
# Names of the class files of other tools; read if none of the files above exists.
OTHER_CLASS_FILES = ("class_dict.csv", "classes.csv", "label_colors.txt", "labelmap.txt", "labels.txt", "_classes.csv")
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG followed by a second picture, as some cameras write it
JPEG_QUALITY = 95  # quality of JPEGs that are encoded again


def describe_folder(source: str | Path, layout: catalog.FolderLayout) -> catalog.FolderDataset:
    """Reads the class file of a user's folder (or archive) and makes the dataset's descriptor.

    Raises:
      UserError: if the source or its class file is missing or faulty.
    """
    if not source:
        raise UserError("config.data.source is not set: set it to the folder of your images and masks")
    files = Source(Path(source).expanduser().resolve())
    field, name = f"{FIELD}.classes", layout.classes
    if not name:
        present = _class_files(files, CLASS_FILES) or _class_files(files, OTHER_CLASS_FILES)
        # Roboflow writes the same file into the folder of each split.
        if len({read_text(files, name, field) for name in present}) != 1:
            known = (*CLASS_FILES, *OTHER_CLASS_FILES)
            have = f"both {' and '.join(present)}" if present else f"none of {', '.join(known)}"
            raise UserError(
                f"{files.path} has {have}: write a classes.txt there with one class name a line, or set {field}"
            )
        name = present[0]
    text = read_text(files, name, field)
    return catalog.describe(parse(text, files.where(name) if name in files.names else name), layout)


def _class_files(source: Source, known: tuple[str, ...]) -> list[str]:
    """Returns the files of these names at the top level or one folder below, as in many archives."""
    paths = [(name, PurePosixPath(name)) for name in source.names]
    return [name for name, path in paths if path.name.lower() in known and len(path.parts) <= 2]


class FolderBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads the folders and masks named by the descriptor's layout.

    Its records are in data_dir/folder/FOLDER, see `prepared_folders.folder_name`.
    """

    name = catalog.NAME

    def __init__(
        self,
        dataset: catalog.FolderDataset,
        *,
        data_dir: Path,
        source: Path,
        folder: str,
        for_evaluation: bool = False,
    ) -> None:
        self.DATASET = dataset
        values = (*range(len(dataset.classes)), dataset.ignore_label)
        self.LABEL_RULE = {value: value for value in values}  # pyrefly: ignore[read-only]
        # Images of the current split that have an EXIF orientation.
        self._turned: list[str] = []
        self._kept: list[str] = []
        self._palettes = Palettes()
        config = tfds.core.BuilderConfig(name=folder, description="A user's own images and masks.")
        super().__init__(data_dir=data_dir, source=source, for_evaluation=for_evaluation, config=config)

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        info.metadata["settings"] = self.DATASET.settings()
        return info

    def compare_with_source(self) -> None:
        """Prints a note if the source has other images, masks or splits than were prepared; the records remain valid.

        Names are compared, since reading all files would take long.
        """
        try:
            found, _ = find_pairs(self.source, self.DATASET.layout, for_evaluation=self.for_evaluation)
        except UserError:  # the source is being edited, or is gone
            return
        now = {split: len(pairs) for split, pairs in found.items()}
        # Records of earlier versions have neither entry.
        skipped = self.info.metadata.get("skipped", {})
        same_files = self.info.metadata.get(FILES) in (None, _hash_of_names(found))
        then = {split: info.num_examples + skipped.get(split, 0) for split, info in self.info.splits.items()}
        if now == then and same_files:
            return
        others = (
            f"other images, masks or splits than {self.records_dir} was prepared from"
            if now == then
            else f"{_counts(now)} images, {self.records_dir} was prepared from {_counts(then)}"
        )
        _print_note(
            f"{self.source.path} now holds {others}: to prepare them all, set another config.data.dir, or delete "
            f"{self.records_dir}, and run the same command again"
        )

    def refuse_unpaired(self, unpaired: dict[str, str], lacks: str) -> None:
        refuse_unpaired(self.source, unpaired, lacks)

    def pairs(self) -> dict[str, list[Pair]]:
        return self._found[0]

    def can_train(self) -> bool:
        splits = self._own_splits()
        return "train" in splits and ("val" in splits or len(splits["train"]) > 1)

    def held_out_split(self) -> str:
        """Returns val or test if the source has them, else all splits: a drawn val is held out of training only."""
        # Records of earlier versions do not say whether val was drawn.
        own = self.info.metadata.get(OWN_SPLITS, self.info.splits)
        return next((split for split in ("val", "test") if split in own), "+".join(sorted(self.info.splits)))

    def _own_splits(self) -> dict[str, list[Pair]]:
        """The splits that the source has, none drawn."""
        return find_pairs(self.source, self.DATASET.layout, lambda *_: None, for_evaluation=True)[0]

    @cached_property
    def _found(self) -> tuple[dict[str, list[Pair]], str]:
        """The pairs of each split, and the format of all masks: as configured, or as the first one is stored."""
        splits, summary = find_pairs(
            self.source,
            self.DATASET.layout,
            self.refuse_unpaired,
            note=_print_note,
            for_evaluation=self.for_evaluation,
        )
        self.info.metadata.update({OWN_SPLITS: sorted(self._own_splits()), FILES: _hash_of_names(splits)})
        mask_format = self.DATASET.layout.mask_format
        if mask_format == "auto":
            mask_format = self._first_format(next(iter(splits.values())))
        print(f"{self.source.path}: {summary}; masks are read as {mask_format}", flush=True)
        return splits, mask_format

    def find_range(self, images: Mapping[str, Extremes]) -> ValueRange:
        return self.DATASET.layout.value_range or find_value_range(images)

    @cached_property
    def _value_range(self) -> ValueRange | None:
        """The range of the images of more than 8 bits; None if there are none."""
        return range_of_images(
            self.source, [pair.image for pairs in self.pairs().values() for pair in pairs], self.find_range
        )

    def _first_format(self, pairs: list[Pair]) -> str:
        """Returns the format of the first mask, or of the first readable one if unreadable pairs are skipped."""
        for number, pair in enumerate(pairs, start=1):
            try:
                return format_of(open_image(self.source.read(pair.label), self.source.where(pair.label)))
            except UserError:
                if not self.skip_unreadable or number == len(pairs):
                    raise
        raise ValueError("no pairs")

    def stored_as(self) -> dict[int, list[str]]:
        """Returns training id -> the mask values or colours that the class file maps to it."""
        table = self.DATASET.table
        found: dict[int, list[str]] = {}
        for raw, label in (table.colours if self.in_colours() else table.values).items():
            found.setdefault(label, []).append(" ".join(map(str, raw)) if isinstance(raw, tuple) else str(raw))
        if table.rest is not None:
            found.setdefault(table.rest, []).insert(0, "all others")
        return found

    def in_colours(self) -> bool:
        return self._found[1] == "colours"

    def examples(self) -> dict[str, Iterable[EncodedExample]]:
        if others := note_on_others(Path(self.data_dir_root), self.source.path, self.DATASET):
            _print_note(others)
        if unlabelled := self.DATASET.table.unlabelled():
            _print_note(
                f"{self.DATASET.table.where} has the class {quoted(unlabelled[0])}, which is trained and counted like "
                "any other: if it marks pixels without a class, rename it to 'ignore' there"
            )
        self.info.metadata["value_range"] = self._value_range and list(self._value_range)
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
        data, mask_data = self.source.read(pair.image), self.source.read(pair.label)
        value_range = self._value_range  # to find it, all images wait for their turn, too
        with work_on(data, mask_data):
            return self._example(pair, data, mask_data, value_range)

    def _example(self, pair: Pair, data: bytes, mask_data: bytes, value_range: ValueRange | None) -> EncodedExample:
        where = self.source.where
        image, mask = open_image(data, where(pair.image)), open_image(mask_data, where(pair.label))
        orientation = orientation_of(image)
        to_be_turned = self.to_be_turned(pair, image.size, orientation, mask.size)
        if orientation != UPRIGHT and self.DATASET.layout.orientation != "stored":
            (self._turned if to_be_turned else self._kept).append(pair.image)
        check_size(self.source, pair, upright_size(image.size, orientation) if to_be_turned else image.size, mask.size)
        if to_be_turned or image.format not in JPEGS or image.mode == "CMYK":
            pixels = rgb_pixels(image, data, where(pair.image), value_range)
            pixels = turn_upright(pixels, orientation) if to_be_turned else pixels
            is_jpeg = image.format in JPEGS
            del image  # as large as its pixels
            data = _encode_jpeg(pixels) if is_jpeg else encode_image(pixels)
        return pair.name, data, encode_label(self._ids(pair, mask, mask_data))

    def to_be_turned(self, pair: Pair, size: tuple[int, int], orientation: int, label_size: tuple[int, int]) -> bool:
        """Returns whether to apply the image's EXIF orientation, so that it fits its mask."""
        choice, turned_size = self.DATASET.layout.orientation, upright_size(size, orientation)
        if orientation == UPRIGHT or choice == "stored":
            return False
        if choice == "auto" and turned_size == size == label_size:
            raise UserError(
                f"{self.source.where(pair.image)} has an EXIF orientation ({orientation}), and its size does not show "
                f"whether its mask is turned by it: set {FIELD}.orientation to 'turned' if it is, else to 'stored'"
            )
        return label_size == turned_size

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """Returns training ids, since the class file defines what a mask's raw values mean."""
        data = self.source.read(pair.label)
        return self._ids(pair, open_image(data, self.source.where(pair.label)), data)

    def _ids(self, pair: Pair, mask: Image.Image, data: bytes) -> UInt8[np.ndarray, "h w"]:
        table, mask_format, where = self.DATASET.table, self._found[1], self.source.where(pair.label)
        assumed = self.DATASET.layout.mask_format == "auto"
        check_label_file(data, where)
        ids = training_ids(mask, table, mask_format, where, assumed=assumed, bits=bits_of(mask, data))
        if assumed and mask_format == "indices" and mask.mode == "P" and not table.colours:
            self._palettes.add(mask, ids, where, table)
        return ids


def _print_note(line: str) -> None:
    print(f"Note: {line}", flush=True)


def _hash_of_names(splits: dict[str, list[Pair]]) -> str:
    files = sorted((split, pair.image, pair.label) for split, pairs in splits.items() for pair in pairs)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _counts(images: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in sorted(images.items()))


def _encode_jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()
