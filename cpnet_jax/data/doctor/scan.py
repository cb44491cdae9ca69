"""Examines pairs one by one; faulty data becomes a finding, not an exception."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import ExifTags, Image

from cpnet_jax.data.builders.base import JPEG_START, encode_label, open_image
from cpnet_jax.data.doctor.examined_data import Entry, ExaminedData
from cpnet_jax.data.doctor.findings import Finding
from cpnet_jax.data.records import decode_record
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track

# Pixels of value 0 within this distance of another value count as an outline; outlines of void are about 5 pixels wide.
OUTLINE_REACH = 3


@dataclass(eq=False)
class Observation:
    """Result of examining one pair.

    Attributes:
      entry: the pair.
      findings: its problems.
      size: (width, height) of the image; None if it cannot be read.
      values: raw label value -> pixels; empty if the label cannot be read or was saved as a JPEG.
      zero_outline: number of pixels of raw value 0 near another value.
      image_digest, label_digest: hashes of the pixels; empty if they cannot be read.
    """

    entry: Entry
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    values: dict[int, int] = field(default_factory=dict)
    zero_outline: int = 0
    image_digest: str = ""
    label_digest: str = ""


def scan(examined: ExaminedData, threads: int) -> list[Observation]:
    """Examines every pair with threads; the result is in the order of the pairs."""
    entries = [entry for entries in examined.splits.values() for entry in entries]
    pool = ThreadPoolExecutor(max(threads, 1))
    try:
        observations = pool.map(partial(examine, examined=examined), entries)
        return list(track(observations, f"Checking {examined.dataset.name}", total=len(entries), unit="pair"))
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interruption does not wait for the remaining pairs


def examine(entry: Entry, examined: ExaminedData) -> Observation:
    """Reads a pair and finds its problems."""
    seen = Observation(entry)
    turned = _look_at_image(seen)
    raw = _look_at_label(seen, examined)
    if raw is not None and seen.size is not None and raw.shape[::-1] != seen.size:
        sizes = "label {}x{}, image {}x{}".format(*raw.shape[::-1], *seen.size)
        because = " (its label was made for the image turned by its EXIF orientation)"
        swapped = turned and raw.shape == seen.size
        seen.findings.append(Finding("size_mismatch", entry.label, sizes + (because if swapped else "")))
    return seen


def _look_at_image(seen: Observation) -> bool:
    """Examines the image; returns whether its EXIF orientation swaps width and height."""
    name = seen.entry.image
    try:
        data = seen.entry.image_file()
        # Pillow detects truncated files; OpenCV, which training uses, fills them up with grey.
        picture = open_image(data, name)
    except UserError as error:
        seen.findings.append(Finding("image_unreadable", name, _without_name(error, name)))
        return False
    seen.size = picture.size
    try:
        seen.image_digest = _digest(decode_image(data, picture.size))
    except UserError:
        reason = f"training cannot decode {picture.format} of mode {picture.mode}: save it as JPEG or PNG"
        seen.findings.append(Finding("image_unreadable", name, reason))
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        seen.findings.append(Finding("image_turned", name, f"orientation {orientation}"))
    if kind := _unusual_mode(picture):
        seen.findings.append(Finding(kind, name, f"mode {picture.mode}"))
    return orientation in (5, 6, 7, 8)


def _unusual_mode(picture: Image.Image) -> str | None:
    if picture.has_transparency_data:
        return "image_transparent"
    modes = {"1": "image_grey", "L": "image_grey", "CMYK": "image_cmyk", "I;16": "image_deep", "I": "image_deep"}
    return modes.get(picture.mode)


def decode_image(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image as training does; raises UserError if training could not.

    Args:
      data: bytes of an image file.
      size: its (width, height).
    """
    nothing = encode_label(np.zeros(size[::-1], np.uint8))
    record = {"id": "", "image": data, "label": nothing}
    return decode_record(record, num_classes=1, ignore_label=255)["image"]


def _look_at_label(seen: Observation, examined: ExaminedData) -> Integer[np.ndarray, "h w"] | None:
    """Examines the label; returns its raw values, or None if they cannot be read."""
    name = seen.entry.label
    try:
        raw = seen.entry.raw_label()
    except UserError as error:
        kind = "label_no_indices" if _label_opens(seen.entry) else "label_unreadable"
        seen.findings.append(Finding(kind, name, _without_name(error, name)))
        return None
    if seen.entry.label_file and seen.entry.label_file().startswith(JPEG_START):
        # Its values are compression artefacts, so they are not counted.
        seen.findings.append(Finding("label_lossy", name))
        return raw
    seen.label_digest = _digest(raw)
    seen.values = _count(raw)
    unknown = {value: count for value, count in seen.values.items() if value not in examined.rule}
    if unknown:
        listed = ", ".join(f"{value} ({count} pixel{'s' * (count > 1)})" for value, count in unknown.items())
        seen.findings.append(Finding("unknown_values", name, listed))
    if 0 in seen.values:
        seen.zero_outline = _outline(raw == 0)
    return raw


def _count(raw: Integer[np.ndarray, "h w"]) -> dict[int, int]:
    """Counts the pixels of each value, sorted by value."""
    if raw.dtype in (np.uint8, np.uint16):  # a histogram is ten times as fast as np.unique, which sorts
        counts = np.bincount(raw.ravel())
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    return dict(zip(*(part.tolist() for part in np.unique(raw, return_counts=True)), strict=True))


def _outline(region: np.ndarray) -> int:
    """Counts the pixels of a region near its border; the image's border does not count."""
    side = 2 * OUTLINE_REACH + 1
    core = cv2.erode(region.astype(np.uint8), np.ones((side, side), np.uint8))
    return int(region.sum()) - int(core.sum())


def _label_opens(entry: Entry) -> bool:
    """Returns whether the label is a readable image, of class indices or not."""
    try:
        return entry.label_file is not None and bool(open_image(entry.label_file(), entry.label))
    except UserError:
        return False


def _digest(pixels: np.ndarray) -> str:
    header = f"{pixels.shape} {pixels.dtype} ".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def _without_name(error: UserError, name: str) -> str:
    """Returns the error's message after the file's name, which the report shows separately."""
    return str(error).rpartition(f"{name} ")[2]
