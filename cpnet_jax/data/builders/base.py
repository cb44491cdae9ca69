"""What the TFDS builders share: the record format, and bringing labels into it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Integer, UInt8
from PIL import Image

from cpnet_jax.data import codecs
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track

JPEG_START = b"\xff\xd8"

# (id, image bytes, label PNG)
Example = tuple[str, bytes, bytes]


@dataclass(frozen=True)
class Pair:
    """An image and its label, as files of a source."""

    name: str
    image: str
    label: str


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Image and label pairs as undecoded bytes.

    A subclass names its dataset, its label rule (raw value -> training id) and, in `pairs`, which files belong
    together; one whose examples are no pairs of files overrides `examples`.
    """

    DATASET: Dataset
    LABEL_RULE: dict[int, int]
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}

    def __init__(self, *, data_dir: Path, source: Path | None, config: tfds.core.BuilderConfig | None = None) -> None:
        self.source_path = source
        super().__init__(data_dir=data_dir, config=config)

    def __reduce__(self) -> tuple[Any, ...]:
        """The records carry their builder into worker processes; TFDS would call __init__ with arguments of its own."""
        return partial(type(self), data_dir=self.data_dir_root, source=self.source_path), ()

    @cached_property
    def source(self) -> Source:
        """Where the raw files are; UserError where that is not said or not there."""
        if self.source_path is None:
            raise UserError(f"config.data.source is not set: name {self.DATASET.source_help}")
        return Source(self.source_path)

    def pairs(self) -> dict[str, list[Pair]]:
        """The pairs of each split; UserError where the source is not what this builder reads."""
        raise NotImplementedError

    def refuse_lonely(self, lonely: dict[str, str], lacks: str) -> None:
        """Raises UserError naming the first file without a partner; the doctor of data collects them all instead.

        Args:
          lonely: file -> the pattern that its partner should match.
          lacks: "image" or "label".
        """
        file, there = next(iter(lonely.items()))
        raise UserError(
            f"{self.source.where(file)} has no {lacks} among {there} ({len(lonely)} such in all): "
            "add it or take the file out"
        )

    def examples(self) -> dict[str, Iterable[Example]]:
        """The examples of each split; called before anything is written, so that missing files are told at once."""
        return {split: self._read(pairs) for split, pairs in self.pairs().items()}

    def read_label(self, pair: Pair) -> Integer[np.ndarray, "h w"]:
        """The label as its file has it, in raw values; a builder whose labels are no index images overrides this."""
        return read_indices(self.source, pair.label)

    def read(self, pair: Pair) -> Example:
        """One pair's example; UserError naming the file that is wrong."""
        return read_pair(self.source, pair, self.LABEL_RULE, self.read_label)

    def _read(self, pairs: list[Pair]) -> Iterator[Example]:
        # Decoding and compressing leave Python's lock: threads are enough, and a failure comes back as it was raised.
        with ThreadPoolExecutor() as pool:
            # In portions: what has been read ahead of the writer stays in memory.
            portions = (pool.map(self.read, pairs[start : start + 64]) for start in range(0, len(pairs), 64))
            yield from track(chain.from_iterable(portions), f"Preparing {self.name}", total=len(pairs))

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
        )
        # Stored with the records, in the same atomic rename.
        metadata = tfds.core.MetadataDict(source=str(self.source_path or ""))
        return self.dataset_info_from_configs(features=features, metadata=metadata)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(examples) for split, examples in self.examples().items()}

    def _generate_examples(self, examples: Iterable[Example]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, label in examples:
            yield name, {"id": name, "image": image, "label": label}


def match(
    builder: SegmentationBuilder,
    images: str,
    labels: str,
    *,
    image_key: Callable[[str], str] = lambda name: PurePosixPath(name).stem,
    label_key: Callable[[str], str] = lambda name: PurePosixPath(name).stem,
) -> list[Pair]:
    """Pairs of the images and labels that match two patterns, joined by what their names have in common.

    Args:
      images, labels: patterns for names of the source.
      image_key, label_key: name -> the example's id; the same for an image and its label.

    Raises:
      UserError: where one kind is missing altogether, or a file lacks its partner.
    """
    source = builder.source
    found = {}
    for pattern, key in ((images, image_key), (labels, label_key)):
        found[pattern] = {key(name): name for name in source.glob(pattern)}
        if not found[pattern]:
            raise UserError(
                f"{source.where(pattern)} matches no file: config.data.source must be {builder.DATASET.source_help}"
            )
    for here, there, what in ((images, labels, "label"), (labels, images, "image")):
        lonely = {found[here][key]: there for key in sorted(found[here].keys() - found[there].keys())}
        if lonely:
            builder.refuse_lonely(lonely, what)
    common = found[images].keys() & found[labels].keys()
    return [Pair(key, found[images][key], found[labels][key]) for key in sorted(common)]


# A PNG without row filters decodes faster: an image by a third, at a quarter more bytes; a label five times as fast,
# and is no larger.
UNFILTERED = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
# Photographs hardly repeat themselves: looking for more than runs costs time on both sides and saves nothing.
RUNS_ONLY = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


def encode_label(label: UInt8[np.ndarray, "h w"]) -> bytes:
    """Training ids as a one-channel PNG."""
    return cv2.imencode(".png", label, UNFILTERED)[1].tobytes()


def encode_image(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """RGB as a PNG, losslessly."""
    return cv2.imencode(".png", image[..., ::-1], (*UNFILTERED, *RUNS_ONLY))[1].tobytes()


def stored_image(data: bytes, where: str) -> bytes:
    """What a record holds of an image file: a JPEG as it is, of anything else the pixels, as `encode_image` has them.

    Raises:
      UserError: naming `where`, if training could not decode the data.
    """
    if data.startswith(JPEG_START):
        return data
    try:
        return encode_image(codecs.decode_image(data).pixels)
    except ValueError as error:
        raise UserError(f"{where} cannot be decoded ({error}): save it as JPEG or PNG") from error


def read_pair(
    source: Source,
    pair: Pair,
    rule: dict[int, int],
    read_label: Callable[[Pair], Integer[np.ndarray, "h w"]],
) -> Example:
    """(id, the image as `stored_image` has it, the label in training ids as a PNG).

    Args:
      source: where the files are.
      pair: a JPEG or PNG, and its label.
      rule: raw label value -> training id.
      read_label: pair -> raw label values.

    Raises:
      UserError: naming the file, where one cannot be read, the sizes differ or a value is not in the rule.
    """
    data = source.read(pair.image)
    image = open_image(data, source.where(pair.image))
    label = read_label(pair)
    check_size(source, pair, image.size, label.shape[::-1])
    return (
        pair.name,
        stored_image(data, source.where(pair.image)),
        encode_label(translate(label, rule, source.where(pair.label))),
    )


def read_indices(source: Source, name: str) -> Integer[np.ndarray, "h w"]:
    """The values of an index or palette PNG; palette indices stay indices.

    Raises:
      UserError: naming the file, where it cannot be read or has several channels.
    """
    label = open_image(source.read(name), source.where(name))
    if label.mode not in ("L", "P"):
        raise UserError(f"{source.where(name)} is a {label.mode} image: labels must be one-channel class indices")
    return np.asarray(label)


def open_image(data: bytes, where: str) -> Image.Image:
    """The decoded image; UserError naming `where` if the data is damaged or no image."""
    try:
        image = Image.open(BytesIO(data))
        image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <")[0]  # Pillow names its stream, which says nothing
        raise UserError(f"{where} cannot be read as an image ({reason}): replace it or take the pair out") from error
    return image


def check_size(source: Source, pair: Pair, image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raises UserError where the two (width, height) differ."""
    if image != label:
        raise UserError(
            f"{source.where(pair.label)} is {label[0]}x{label[1]} but its image {pair.image} is {image[0]}x{image[1]}: "
            "a label must have its image's size"
        )


def translate(raw: Integer[np.ndarray, "h w"], rule: dict[int, int], where: str) -> UInt8[np.ndarray, "h w"]:
    """Raw label values -> training ids; UserError naming `where` and the values that the rule does not know."""
    table = np.full(max(*rule, int(raw.max()), 255) + 1, -1)
    table[list(rule)] = list(rule.values())
    translated = table[raw]
    if (translated < 0).any():
        unknown = np.unique(raw[translated < 0]).tolist()
        raise UserError(f"{where} holds label values {unknown}; only {_span(rule)} exist in this dataset")
    return translated.astype(np.uint8)


def _span(values: dict[int, int]) -> str:
    ordered = sorted(values)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if contiguous else str(ordered)
