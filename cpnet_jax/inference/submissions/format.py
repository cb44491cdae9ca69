"""The format of a test server's submissions."""

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.files import replacing


@dataclass(frozen=True)
class Format:
    """A format with one PNG per test image, of the image's size, whose pixels are class numbers.

    Attributes:
      dataset: the predicted classes.
      values: class i is written as values[i].
      key: pattern for the common beginning of the file names of an image and its prediction.
      example: an image's file name.
      ending: what follows the key in the names of written predictions.
      any_ending: whether the server accepts any ending after the key.
      test_key: pattern for the keys of test images.
      counts: number of test images in each published test set.
      size: (width, height) of all test images, or None if they differ.
    """

    dataset: Dataset
    values: tuple[int, ...]
    key: str
    example: str
    ending: str
    any_ending: bool
    test_key: str
    counts: tuple[int, ...]
    size: tuple[int, int] | None = None

    def key_of(self, name: str) -> str | None:
        """The key at the beginning of a file name, or None if it has no key."""
        match = re.match(self.key, PurePosixPath(name).name)
        return match and match[0]

    def name(self, image: Path) -> str:
        """The file name of an image's prediction.

        Raises:
          UserError: if the image is not named like the benchmark's images.
        """
        key = self.key_of(image.name)
        if key is None:
            raise UserError(
                f"{image} is not named like the images of {self.dataset.name}, for example {self.example}: the server "
                "finds predictions by these names, so name the benchmark's images"
            )
        return key + self.ending

    def check(self, dataset: Dataset, images: Iterable[Path]) -> None:
        """Checks, before predicting, that a submission can be made from a model's classes and these images.

        Raises:
          UserError: if the classes differ, an image has another name pattern, or two predictions would share a name.
        """
        if dataset.classes != self.dataset.classes:
            raise UserError(
                f"the model has the {len(dataset.classes)} classes of {dataset.name}, but a submission to "
                f"{self.dataset.name} needs its {len(self.dataset.classes)} classes in order: use a model trained on it"
            )
        image_of = {}
        for image in images:
            other = image_of.setdefault(self.name(image), image)
            if other != image:
                raise UserError(
                    f"{image} and {other} would both be written as {self.name(image)}: name only one of them"
                )

    def encode(self, classes: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Maps class indices to the server's numbers.

        Raises:
          ValueError: on a value that is not a class.
        """
        if classes.size and (classes.min() < 0 or classes.max() >= len(self.values)):
            raise ValueError(f"values {classes.min()} to {classes.max()}, but there are {len(self.values)} classes")
        return self._table[classes]

    @cached_property
    def _table(self) -> UInt8[np.ndarray, " k"]:
        return np.array(self.values, np.uint8)

    def write(self, folder: Path, image: Path, classes: Integer[np.ndarray, "h w"]) -> Path:
        """Writes an image's prediction into the folder, in one step; returns its path.

        Args:
          image: decides the prediction's name; the file is not read.
          classes: the class of every pixel of the image as stored.

        Raises:
          UserError, ValueError: see `name` and `encode`.
        """
        path = folder / self.name(image)
        with replacing(path) as temporary:
            Image.fromarray(self.encode(classes)).save(temporary, format="PNG")
        return path


def write_zip(files: Iterable[Path], archive: Path) -> None:
    """Packs the files without their folders; replaces the archive in one step."""
    # Stored, because PNGs are already compressed.
    with (
        replacing(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False) as packed,
    ):
        for path in files:
            packed.write(path, path.name)
