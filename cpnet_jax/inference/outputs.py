"""Writes predictions: class indices, overlays for viewing, and probabilities."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.pictures import MAX_WIDTH, PANEL_HEIGHT, class_names, colourise, legend, overlay
from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import InputImage
from cpnet_jax.inference.submissions import Submission
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

# Overlays with a longer side are shrunk; class indices always have the image's size.
MAX_OVERLAY = 2048
# Wide enough for the longest class name.
MIN_LEGEND = 320
FOLDERS = ("classes", "overlays", "probabilities")


class PredictionWriter:
    """Writes predictions in background threads, to classes/, overlays/ and probabilities/ of a folder.

    Use it as a context manager. Each file is replaced in one step; other files in the folders stay.

    Args:
      folder: the folder to write to.
      dataset: the predicted classes and their colours.
      description: contents of predictions.json; None writes none.
      overlays: whether to draw overlays.
      submission: a benchmark submission to write the predictions to, too.

    Attributes:
      written: number of predictions whose files exist; of all of them after the context manager's end.
    """

    def __init__(
        self,
        folder: AnyPath,
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
        self.written = 0

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            while kind is None and self._waiting:
                self._finish_first()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write(
        self,
        file: InputImage,
        image: UInt8[np.ndarray, "h w 3"],
        classes: UInt8[np.ndarray, "h w"],
        probabilities: Float[np.ndarray, "h w k"] | None = None,
    ) -> None:
        """Queues the prediction of a file, whose pixels are `image`; blocks if too many are queued.

        Raises:
          UserError: if this or an earlier prediction cannot be written.
        """
        if self._description is not None:
            # Written with the first prediction: until then, the folder may hold only files of an earlier run.
            files.write_json(self._folder / "predictions.json", self._description)
            self._description = None
        if probabilities is not None:
            probabilities = probabilities.astype(np.float16)  # halves the memory of the queue
        self._waiting.append(self._pool.submit(self._write, file, image, classes, probabilities))
        while len(self._waiting) > self._most_waiting:
            self._finish_first()

    def _finish_first(self) -> None:
        self._waiting.popleft().result()
        self.written += 1

    def _write(
        self,
        file: InputImage,
        image: UInt8[np.ndarray, "h w 3"],
        classes: UInt8[np.ndarray, "h w"],
        probabilities: Float[np.ndarray, "h w k"] | None,
    ) -> None:
        name = file.name
        # No with_suffix: the name may contain dots.
        try:
            write_png(self._folder / "classes" / f"{name}.png", classes)
            if self._overlays:
                write_png(self._folder / "overlays" / f"{name}.png", overlay_picture(image, classes, self._dataset))
            if probabilities is not None:
                path = self._folder / "probabilities" / f"{name}.npz"
                write_probabilities(path, probabilities, self._dataset.classes)
            if self._submission is not None:
                self._submission.write(file.path, classes)
        except OSError as error:
            raise UserError(
                f"cannot write the prediction {name} to {self._folder} ({error.strerror}): free space, or name another "
                "--output"
            ) from error


def write_png(path: AnyPath, pixels: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a PNG: one channel of class indices, or RGB.

    Class indices get no palette, because OpenCV and other readers would silently return its colours instead of indices.
    """
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    encoded = cv2.imencode(".png", pixels)[1]
    with files.replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def write_probabilities(path: AnyPath, probabilities: Float[np.ndarray, "h w k"], classes: tuple[str, ...]) -> None:
    """Writes a compressed .npz with `probabilities` (h, w, k) and `classes`, the k class names."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, classes=np.array(classes))


def overlay_picture(
    image: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"], dataset: Dataset
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws the class colours over the image, and below it a legend with each class's share, largest first."""
    size = _shown_size(*classes.shape)
    enlarged = size[0] > image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA)
    colours = colourise(
        cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST), dataset.palette, dataset.ignore_label
    )
    count = np.bincount(classes.ravel(), minlength=len(dataset.classes))
    shown = [index for index in np.argsort(-count, kind="stable") if count[index]]
    width = max(size[0], MIN_LEGEND)
    known = class_names(dataset)
    names = [f"{known[index]} {_percent(count[index] / classes.size)}" for index in shown]
    caption = np.asarray(legend(names, [dataset.palette[index] for index in shown], width))
    canvas = np.full((size[1] + caption.shape[0], width, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = overlay(resized, colours)
    canvas[size[1] :] = caption
    return canvas


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) for viewing: small images are enlarged by a whole factor, large ones shrunk."""
    if max(height, width) > MAX_OVERLAY:
        factor = MAX_OVERLAY / max(height, width)
    else:
        factor = max(min(round(PANEL_HEIGHT / height), MAX_WIDTH // width), 1)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
