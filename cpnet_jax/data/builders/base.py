"""Base class of the TFDS builders: the record format, pairing by name, and conversion of images and labels."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Integer, UInt8
from PIL import Image

from cpnet_jax.data import image_files
from cpnet_jax.data.builders.look_up import look_up
from cpnet_jax.data.builders.sources import Source
from cpnet_jax.data.image_files import JPEG_START
from cpnet_jax.data.large_images import work_on
from cpnet_jax.data.value_range import Extremes, ValueRange, to_8_bits, value_range_from
from cpnet_jax.errors import UserError, quoted
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.progress import track

# Folder in config.data.dir of the records of sources that can be evaluated on, but not trained on.
EVALUATION = "evaluation"
# (id, bytes of the image, bytes of the label's PNG)
EncodedExample = tuple[str, bytes, bytes]


@dataclass(frozen=True)
class Pair:
    """An example's id, and the names of its image and label in a source."""

    name: str
    image: str
    label: str


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base class of builders that store each image and label as undecoded bytes.

    A subclass sets DATASET and LABEL_RULE (raw label value -> training id) and implements `pairs`, which says which
    files belong together. If its examples are not pairs of files, it overrides `examples` instead.
    """

    DATASET: Any  # a Dataset; a FolderBuilder's is a FolderDataset
    LABEL_RULE: ClassVar[Any]  # dict[int, int], of the class, the instance or a property
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    # Where TFDS looks for citations and tags. It would look for the package of the subclass; a config file has none.
    pkg_dir_path = Path(__file__).parent
    # Whether a pair that cannot be read is reported and left out; otherwise it raises UserError.
    skip_unreadable = False
    # The counterpart of data_dir_root in an object store, if the records are copied from or to there.
    copy_of: AnyPath | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps a builder out of TFDS's registry, which refuses the second of a name: a config file is loaded twice."""
        super().__init_subclass__(**{"skip_registration": True, **options})

    def __init__(
        self,
        *,
        data_dir: Path,
        source: Path | None,
        for_evaluation: bool = False,
        config: tfds.core.BuilderConfig | None = None,
    ) -> None:
        """Makes the builder, without reading or writing records.

        Args:
          data_dir: folder of all prepared datasets.
          source: folder or archive of the raw files.
          for_evaluation: whether splits may be missing, because the records are not trained on.
          config: TFDS's own settings.
        """
        self.source_path, self.for_evaluation = source, for_evaluation
        super().__init__(data_dir=data_dir, config=config)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what reads the records, which carry their builder into worker processes.

        Workers cannot import the class if a config file defines it.
        """
        return tfds.builder_from_directory, (str(self.data_dir),)

    @property
    def records_dir(self) -> AnyPath:
        """Folder to delete if the records shall be prepared again: in the object store if data_dir is a copy."""
        local = Path(self.data_dir)
        return self.copy_of / local.relative_to(self.data_dir_root).as_posix() if self.copy_of else local

    @cached_property
    def source(self) -> Source:
        """The raw files; UserError if config.data.source is not set or does not exist."""
        if self.source_path is None:
            raise UserError(f"config.data.source is not set: set it to {self.DATASET.source_help}")
        return Source(self.source_path)

    def find_range(self, images: Mapping[str, Extremes]) -> ValueRange | None:
        """Returns the range by which images of more than 8 bits are scaled; None: their values are divided by 256.

        Args:
          images: name -> extremes, of all such images.
        """
        del images
        return None

    @property
    def value_range(self) -> ValueRange | None:
        """Range by which images of more than 8 bits were scaled; None: divided by 256, or there were none."""
        return value_range_from(self.info.metadata)

    def pairs(self) -> dict[str, list[Pair]]:
        """Returns the pairs of each split; raises UserError if the source is not what this builder reads."""
        raise NotImplementedError

    def can_train(self) -> bool:
        """Returns whether the source has images to train and to evaluate on; for a builder made for evaluation."""
        found = {split for split, pairs in self.pairs().items() if pairs}
        return {self.DATASET.train_split, self.DATASET.eval_split} <= found

    def held_out_split(self) -> str:
        """Returns the split of the prepared records to evaluate a network on that was trained on other data."""
        splits = list(self.info.splits)
        return splits[0] if len(splits) == 1 else self.DATASET.eval_split

    def compare_with_source(self) -> None:
        """Prints a note if the source has changed since the records were written; does nothing by default."""

    def refuse_unpaired(self, unpaired: dict[str, str], lacks: str) -> None:
        """Raises UserError that names the first file without a partner; `data.doctor` collects them instead.

        Args:
          unpaired: file -> pattern that its partner should match.
          lacks: "image" or "label".
        """
        file, pattern = next(iter(unpaired.items()))
        raise UserError(
            f"{self.source.where(file)} has no {lacks} among {pattern} ({len(unpaired)} such files in all): "
            f"add the {lacks} or remove the file"
        )

    def examples(self) -> Mapping[str, Iterable[EncodedExample]]:
        """Returns the examples of each split, read lazily; raises UserError at once if files are missing."""
        return {split: self._read_all(split, pairs) for split, pairs in self.pairs().items() if pairs}

    def stored_as(self) -> dict[int, list[str]]:
        """Returns raw label value -> how label files store it, where `read_label` has translated it."""
        return {}

    def in_colours(self) -> bool:
        """Returns whether the label files show classes by colours, which have no order."""
        return False

    def to_be_turned(self, pair: Pair, size: tuple[int, int], orientation: int, label_size: tuple[int, int]) -> bool:
        """Returns whether preparing turns the pixels of a pair's image as its EXIF orientation says; no by default.

        Args:
          pair: the pair.
          size: stored (width, height) of the image.
          orientation: EXIF orientation of the image.
          label_size: (width, height) of the label.

        Raises:
          UserError: if that has to be configured.
        """
        del pair, size, orientation, label_size
        return False

    def read_label(self, pair: Pair) -> Integer[np.ndarray, "h w"]:
        """Reads a pair's raw label values; override this if labels are not index images."""
        return read_indices(self.source, pair.label)

    def read_example(self, pair: Pair) -> EncodedExample:
        """Reads one pair; raises UserError that names a faulty file."""
        return read_pair(self.source, pair, self.LABEL_RULE, self.read_label)

    def _read_all(self, split: str, pairs: list[Pair]) -> Iterator[EncodedExample]:
        skipped = 0
        # Threads suffice, since decoding and compression release Python's lock; exceptions keep their type.
        with ThreadPoolExecutor() as pool:
            # In portions, to limit the memory of examples read ahead of the writer.
            portions = (pool.map(self._try_to_read, pairs[start : start + 64]) for start in range(0, len(pairs), 64))
            for example in track(chain.from_iterable(portions), f"Preparing {self.name}", total=len(pairs)):
                if isinstance(example, UserError):
                    skipped += 1
                    print(f"Skipped: {example}", file=sys.stderr)  # stdout is hidden while TFDS writes
                    if skipped == len(pairs):
                        raise UserError(f"every pair of {split} is faulty, the last one: {example}")
                else:
                    yield example
        if skipped:
            print(
                f"Note: {skipped} of {len(pairs)} pairs of {split} were skipped, each is named above", file=sys.stderr
            )
            self.info.metadata["skipped"][split] = skipped

    def _try_to_read(self, pair: Pair) -> EncodedExample | UserError:
        try:
            return self.read_example(pair)
        except UserError as error:
            if not self.skip_unreadable:
                raise
            return error

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
        )
        # Metadata is written with the records, in the same atomic rename.
        metadata = tfds.core.MetadataDict(source=str(self.source_path or ""), skipped={})
        return self.dataset_info_from_configs(features=features, metadata=metadata)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(examples) for split, examples in self.examples().items()}

    def _generate_examples(self, examples: Iterable[EncodedExample]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, label in examples:
            yield name, {"id": name, "image": image, "label": label}


def stem_of(name: str) -> str:
    """Returns a file's name without folder and ending."""
    return PurePosixPath(name).stem


def files_by_id(source: Source, names: Iterable[str], id_of: Callable[[str], str] = stem_of) -> dict[str, str]:
    """Maps each file's id to its name; raises UserError that names two files of one id."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(id_of(name), name)
        if other != name:
            raise UserError(
                f"{source.where(other)} and {source.where(name)} are both named {quoted(id_of(name))}: keep only one "
                f"of them in {source.path}"
            )
    return found


def match_pairs(
    builder: SegmentationBuilder,
    images: str,
    labels: str,
    *,
    image_key: Callable[[str], str] = stem_of,
    label_key: Callable[[str], str] = stem_of,
) -> list[Pair]:
    """Pairs the images and labels that match two patterns, by the ids in their names.

    Args:
      builder: builder whose source is searched.
      images, labels: patterns of names in the source.
      image_key, label_key: name -> the example's id, equal for an image and its label.

    Raises:
      UserError: if no image or no label matches, two of them have one id, or a file lacks its partner. For evaluation,
        both may be missing.
    """
    source = builder.source
    found = {
        pattern: files_by_id(source, source.glob(pattern), key)
        for pattern, key in ((images, image_key), (labels, label_key))
    }
    if builder.for_evaluation and not any(found.values()):
        return []
    for pattern, files in found.items():
        if not files:
            raise UserError(
                f"{source.where(pattern)} matches no file: config.data.source must be {builder.DATASET.source_help}"
            )
    for here, there, lacks in ((images, labels, "label"), (labels, images, "image")):
        unpaired = {found[here][key]: there for key in sorted(found[here].keys() - found[there].keys())}
        if unpaired:
            builder.refuse_unpaired(unpaired, lacks)
    common = found[images].keys() & found[labels].keys()
    return [Pair(key, found[images][key], found[labels][key]) for key in sorted(common)]


# PNGs without row filters decode faster: images by a third, at 25 % more bytes; labels five times as fast, at no cost.
UNFILTERED = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
# Photographs hardly repeat themselves, so searching for more than runs costs time and saves nothing.
RUNS_ONLY = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


def encode_label(label: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes training ids as a one-channel PNG."""
    return cv2.imencode(".png", label, UNFILTERED)[1].tobytes()


def encode_image(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encodes RGB as a PNG."""
    return cv2.imencode(".png", image[..., ::-1], (*UNFILTERED, *RUNS_ONLY))[1].tobytes()


def stored_image(data: bytes, where: str) -> bytes:
    """Returns the bytes a record stores for an image file: a JPEG unchanged, anything else encoded as a PNG.

    Raises:
      UserError: if the data cannot be decoded; names `where`.
    """
    if data.startswith(JPEG_START):
        return data
    return encode_image(rgb_pixels(open_image(data, where), data, where))


def rgb_pixels(
    image: Image.Image, data: bytes, where: str, value_range: ValueRange | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image's pixels as stored, see `to_8_bits`.

    Args:
      image: the image, opened from `data`.
      where: name of the file for messages.
      value_range: range of images of more than 8 bits.

    Raises:
      UserError: if the image is of a kind that has no RGB pixels; names `where`.
    """
    try:
        return to_8_bits(image_files.pixel_values(image, data), value_range)
    except ValueError as error:
        raise UserError(f"{where} cannot be decoded ({error}): save it as JPEG or PNG") from error


def read_pair(
    source: Source,
    pair: Pair,
    rule: dict[int, int],
    read_label: Callable[[Pair], Integer[np.ndarray, "h w"]],
) -> EncodedExample:
    """Reads a pair: its id, the image as in `stored_image`, and the label's training ids as a PNG.

    Args:
      source: the raw files.
      pair: an image and its label.
      rule: raw label value -> training id.
      read_label: pair -> raw label values.

    Raises:
      UserError: if a file cannot be read, the sizes differ or a value is not in the rule; names the file.
    """
    data, where = source.read(pair.image), source.where(pair.image)
    with work_on(data):
        image = open_image(data, where)
        label = read_label(pair)
        check_size(source, pair, image.size, label.shape[::-1])
        stored = data if data.startswith(JPEG_START) else encode_image(rgb_pixels(image, data, where))
        del image
        return pair.name, stored, encode_label(translate(label, rule, source.where(pair.label)))


def read_indices(source: Source, name: str) -> Integer[np.ndarray, "h w"]:
    """Reads the values of a greyscale or palette image; palette indices stay indices.

    Raises:
      UserError: if the file cannot be read or has several channels; names the file.
    """
    data = source.read(name)
    label = open_image(data, source.where(name))
    check_label_file(data, source.where(name))
    if label.mode not in ("L", "P"):
        raise UserError(f"{source.where(name)} is a {label.mode} image: labels must be one-channel class indices")
    return image_files.stored_indices(label, image_files.bits_of(label, data))


def check_label_file(data: bytes, where: str) -> None:
    """Raises UserError that names `where` if a label's file has several pages, or pixels that JPEG has changed."""
    if image_files.has_more_frames(data):
        raise UserError(f"{where} has several pages: save the label as one page")
    if image_files.is_jpeg(data):
        raise UserError(
            f"{where} is compressed as JPEG, which changes labels at their borders: export the labels again, as PNG"
        )


def open_image(data: bytes, where: str) -> Image.Image:
    """Decodes an image as it is stored; raises UserError that names `where` if `image_files.open_image` cannot."""
    try:
        return image_files.open_image(data)
    except image_files.TooManyPixels as error:
        raise UserError(
            f"{where} cannot be read as an image ({error}): cut it and its label into tiles, in the same way"
        ) from error
    except ValueError as error:
        raise UserError(f"{where} cannot be read as an image ({error}): replace it or remove the pair") from error


def check_size(source: Source, pair: Pair, image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raises UserError if the (width, height) of image and label differ."""
    if image != label:
        raise UserError(
            f"{source.where(pair.label)} is {label[0]}x{label[1]} but its image {pair.image} is {image[0]}x{image[1]}: "
            "export the label in its image's size"
        )


def translate(raw: Integer[np.ndarray, "h w"], rule: dict[int, int], where: str) -> UInt8[np.ndarray, "h w"]:
    """Maps raw label values to training ids; raises UserError that names `where` and the values not in the rule."""
    translated = look_up(raw, rule)
    if (translated < 0).any():
        unknown = np.unique(raw[translated < 0]).tolist()
        some = f"{unknown[:10]}" + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        raise UserError(f"{where} holds label values {some}: correct them, this dataset has only {_span(rule)}")
    return translated.astype(np.uint8)


def _span(values: dict[int, int]) -> str:
    ordered = sorted(values)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if contiguous else str(ordered)
