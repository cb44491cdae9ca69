"""What distinguishes one server's submissions from another's, and writing them."""

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
    """One PNG for each test image, of its size, with a number for each class.

    Attributes:
      dataset: whose classes are predicted.
      values: that class i is written as, at place i.
      key: pattern of what an image's file name and its prediction's have in common, at the beginning of both.
      example: of an image's file name.
      ending: of the names that we give predictions.
      any_ending: whether the server lets a prediction's name go on after the key as it likes.
      test_key: pattern of the test images' keys.
      counts: how many test images there are, for each published test set.
      size: (width, height) of all test images, or None where they differ.
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
        """The key at the beginning of a file name; None where there is none."""
        match = re.match(self.key, PurePosixPath(name).name)
        return match and match[0]

    def name(self, image: Path) -> str:
        """File name of an image's prediction.

        Raises:
          UserError: where the image is not named as the benchmark's are.
        """
        key = self.key_of(image.name)
        if key is None:
            raise UserError(
                f"{image} is not named as the images of {self.dataset.name} are ({self.example} for instance), so its "
                "prediction cannot be named as the server wants it: give the benchmark's images"
            )
        return key + self.ending

    def check(self, dataset: Dataset, images: Iterable[Path]) -> None:
        """Whether that model's predictions of these images can become a submission; better asked before predicting.

        Raises:
          UserError: on other classes, an image that cannot be named, or two whose predictions would have one name.
        """
        if dataset.classes != self.dataset.classes:
            raise UserError(
                f"the model knows the {len(dataset.classes)} classes of {dataset.name}, but a submission to "
                f"{self.dataset.name} needs its {len(self.dataset.classes)} in their order: take a model trained on it"
            )
        image_of = {}
        for image in images:
            other = image_of.setdefault(self.name(image), image)
            if other != image:
                raise UserError(f"{image} and {other} would both be written as {self.name(image)}: give one of them")

    def encode(self, classes: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Class indices as the server's numbers.

        Raises:
          ValueError: on a value that is no class.
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
          image: whose name decides the prediction's; it is not read.
          classes: of every pixel of the image as it is stored.

        Raises:
          UserError, ValueError: as `name` and `encode`.
        """
        path = folder / self.name(image)
        with replacing(path) as temporary:
            Image.fromarray(self.encode(classes)).save(temporary, format="PNG")
        return path


def write_zip(files: Iterable[Path], archive: Path) -> None:
    """Packs the files, by their names, replacing the archive in one step."""
    # PNGs are compressed already.
    with (
        replacing(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False) as packed,
    ):
        for path in files:
            packed.write(path, path.name)
