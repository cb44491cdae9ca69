"""What the TFDS builders share: the record format, and bringing labels into it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Image and label pairs as undecoded bytes. A subclass names its dataset, its splits and its examples."""

    DATASET: Dataset
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}

    def __init__(self, *, data_dir: Path, source: Path | None) -> None:
        self.source = source
        super().__init__(data_dir=data_dir)

    def check_source(self) -> None:
        """Raises UserError where the raw files are not what this builder reads. Called before anything is written."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
        )
        # Stored with the records, in the same atomic rename.
        metadata = tfds.core.MetadataDict(source=str(self.source or ""))
        return self.dataset_info_from_configs(features=features, metadata=metadata)

    def _generate_examples(self, examples: Iterator[tuple[str, Any, bytes]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, label in examples:
            yield name, {"id": name, "image": image, "label": label}


def encode_label(label: UInt8[np.ndarray, "h w"]) -> bytes:
    """Training ids as a one-channel PNG."""
    return cv2.imencode(".png", label)[1].tobytes()


def read_pair(image_path: Path, label_path: Path, lookup: dict[int, int]) -> tuple[bytes, UInt8[np.ndarray, "h w"]]:
    """The image's bytes as they are, and the label translated to training ids.

    Args:
      image_path: JPEG or PNG.
      label_path: an index or palette PNG; palette indices stay indices.
      lookup: raw label value -> training id.

    Raises:
      UserError: naming the file, where one cannot be read, the sizes differ or a value is not in the lookup.
    """
    with open_image(image_path) as image:
        size = image.size
    with open_image(label_path) as label_image:
        if label_image.mode not in ("L", "P"):
            raise UserError(f"{label_path} is a {label_image.mode} image: labels must be one-channel class indices")
        if label_image.size != size:
            raise UserError(
                f"{label_path} is {label_image.width}x{label_image.height} but its image {image_path.name} is "
                f"{size[0]}x{size[1]}: a label must have its image's size"
            )
        raw = np.asarray(label_image)
    table = np.full(256, -1)
    table[list(lookup)] = list(lookup.values())
    translated = table[raw]
    if (translated < 0).any():
        unknown = sorted(set(np.unique(raw[translated < 0]).tolist()))
        raise UserError(f"{label_path} holds label values {unknown}; only {_span(lookup)} exist in this dataset")
    return image_path.read_bytes(), translated.astype(np.uint8)


def open_image(path: Path) -> Image.Image:
    """The decoded image; UserError where the file is damaged or no image."""
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take the pair out") from error
    return image


def _span(values: dict[int, int]) -> str:
    ordered = sorted(values)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if contiguous else str(ordered)
