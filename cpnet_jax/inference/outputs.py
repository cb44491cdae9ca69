"""What is written of each prediction: class indices, an overlay to look at, and probabilities."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.pictures import MAX_WIDTH, PANEL_HEIGHT, colourise, legend, overlay
from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import InputImage
from cpnet_jax.inference.submissions import Submission
from cpnet_jax.runtime import files

# Longer sides are shrunk in overlays; the indices always keep the image's size.
MAX_OVERLAY = 2048
# Wide enough for the name of any class.
MIN_LEGEND = 320
FOLDERS = ("classes", "overlays", "probabilities")


class PredictionWriter:
    """Writes into classes/, overlays/ and probabilities/ of a folder while the caller goes on; use it in a `with`.

    Files are replaced one by one, each in one step; what else lies in the folders stays.

    Args:
      folder: to write to.
      dataset: whose classes are predicted.
      description: what predictions.json says of these predictions.
      overlays: whether to draw them.
      submission: to write them to as well.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        *,
        description: Any,
        overlays: bool = True,
        submission: Submission | None = None,
        threads: int = 2,
    ) -> None:
        self._folder, self._dataset, self._overlays, self._submission = folder, dataset, overlays, submission
        self._description = description
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque[Future] = deque()
        self._most_waiting = threads

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write(
        self,
        source: InputImage,
        image: UInt8[np.ndarray, "h w 3"],
        classes: UInt8[np.ndarray, "h w"],
        probabilities: Float[np.ndarray, "h w k"] | None = None,
    ) -> None:
        """What was found for a source, whose pixels are `image`. Returns at once unless many are waiting to be written,
        so that memory is bounded.

        Raises:
          UserError: where this or an earlier prediction cannot be written.
        """
        if self._description is not None:
            # Not before there is something to describe: files of an earlier run may be all that is there.
            files.write_json(self._folder / "predictions.json", self._description)
            self._description = None
        if probabilities is not None:
            probabilities = probabilities.astype(np.float16)  # what waits takes half the memory
        self._waiting.append(self._pool.submit(self._write, source, image, classes, probabilities))
        while len(self._waiting) > self._most_waiting:
            self._waiting.popleft().result()

    def _write(
        self,
        source: InputImage,
        image: UInt8[np.ndarray, "h w 3"],
        classes: UInt8[np.ndarray, "h w"],
        probabilities: Float[np.ndarray, "h w k"] | None,
    ) -> None:
        name = source.name
        # It may hold dots: with_suffix would take what follows the last one for an ending.
        try:
            write_png(self._folder / "classes" / f"{name}.png", classes)
            if self._overlays:
                write_png(self._folder / "overlays" / f"{name}.png", picture(image, classes, self._dataset))
            if probabilities is not None:
                path = self._folder / "probabilities" / f"{name}.npz"
                write_probabilities(path, probabilities, self._dataset.classes)
            if self._submission is not None:
                self._submission.write(source.path, classes)
        except OSError as error:
            raise UserError(
                f"the prediction {name} cannot be written to {self._folder} ({error.strerror}): make room, or name "
                "another --output"
            ) from error


def write_png(path: Path, pixels: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]) -> None:
    """One channel as it is, three as RGB.

    Indices have no palette in the file, although viewers would then show colours: OpenCV, and others with their default
    settings, give back a palette's colours (or their grey) where indices are wanted, and without a word.
    """
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    encoded = cv2.imencode(".png", pixels)[1]
    with files.replacing(path) as temporary:
        temporary.write_bytes(encoded)


def write_probabilities(path: Path, probabilities: Float[np.ndarray, "h w k"], classes: tuple[str, ...]) -> None:
    """A compressed .npz of `probabilities` (h, w, k) and `classes`, the k names."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, classes=np.array(classes))


def picture(
    image: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"], dataset: Dataset
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The classes' colours over the image, and a legend of those it shows, the largest first with its share."""
    size = _shown_size(*classes.shape)
    enlarged = size[0] > image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA)
    colours = colourise(
        cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST), dataset.palette, dataset.ignore_label
    )
    count = np.bincount(classes.ravel(), minlength=len(dataset.classes))
    shown = [index for index in np.argsort(-count, kind="stable") if count[index]]
    width = max(size[0], MIN_LEGEND)
    names = [f"{dataset.classes[index]} {_percent(count[index] / classes.size)}" for index in shown]
    caption = np.asarray(legend(names, [dataset.palette[index] for index in shown], width))
    canvas = np.full((size[1] + caption.shape[0], width, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = overlay(resized, colours)
    canvas[size[1] :] = caption
    return canvas


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) to look at: small images enlarged by a whole number, large ones shrunk."""
    if max(height, width) > MAX_OVERLAY:
        factor = MAX_OVERLAY / max(height, width)
    else:
        factor = max(min(round(PANEL_HEIGHT / height), MAX_WIDTH // width), 1)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
