"""One pair at a time: what it shows, and what is wrong with it. Pure; nothing raises on faulty data."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import ExifTags, Image

from cpnet_jax.data.builders.base import JPEG_START, encode_label, open_image
from cpnet_jax.data.doctor.findings import Finding
from cpnet_jax.data.doctor.subject import Entry, Subject
from cpnet_jax.data.records import decode
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track

# Pixels of 0 this near to another value are counted as an outline's: void is drawn about 5 pixels wide.
OUTLINE_REACH = 3


@dataclass(eq=False)
class Observation:
    """What one pair shows.

    Attributes:
      entry: the pair.
      findings: its troubles.
      size: of the image, (width, height); None where it cannot be read.
      values: raw label value -> pixels; empty where the label cannot be trusted.
      zero_outline: how many pixels of raw value 0 lie near another value.
      image_digest, label_digest: equal for equal pixels.
    """

    entry: Entry
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    values: dict[int, int] = field(default_factory=dict)
    zero_outline: int = 0
    image_digest: str = ""
    label_digest: str = ""


def scan(subject: Subject, threads: int) -> list[Observation]:
    """Every pair, in order whatever the number of threads, which decode and count outside Python's lock."""
    entries = [entry for entries in subject.splits.values() for entry in entries]
    pool = ThreadPoolExecutor(max(threads, 1))
    try:
        observations = pool.map(partial(examine, subject=subject), entries)
        return list(track(observations, f"Checking {subject.dataset.name}", total=len(entries), unit="pair"))
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts this does not wait for what is left


def examine(entry: Entry, subject: Subject) -> Observation:
    """Reads a pair wholly and notes all that is wrong with it."""
    seen = Observation(entry)
    turned = _look_at_image(seen)
    raw = _look_at_label(seen, subject)
    if raw is not None and seen.size is not None and raw.shape[::-1] != seen.size:
        sizes = "label {}x{}, image {}x{}".format(*raw.shape[::-1], *seen.size)
        because = " (its label was made for the image as its EXIF orientation turns it)"
        swapped = turned and raw.shape == seen.size
        seen.findings.append(Finding("size_mismatch", entry.label, sizes + (because if swapped else "")))
    return seen


def _look_at_image(seen: Observation) -> bool:
    """Fills in what the image tells; whether a camera's flag would turn it on its side."""
    name = seen.entry.image
    try:
        data = seen.entry.image_file()
        # Pillow notices missing data; OpenCV, which training decodes with, fills it up with grey.
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
    """The pixels that training would see; UserError where it could not.

    Args:
      data: of an image file.
      size: its (width, height).
    """
    nothing = encode_label(np.zeros(size[::-1], np.uint8))
    record = {"id": "", "image": data, "label": nothing}
    return decode(record, num_classes=1, ignore_label=255)["image"]


def _look_at_label(seen: Observation, subject: Subject) -> Integer[np.ndarray, "h w"] | None:
    """Fills in what the label tells; its raw values, where they can be had."""
    name = seen.entry.label
    try:
        raw = seen.entry.raw_label()
    except UserError as error:
        kind = "label_no_indices" if _label_opens(seen.entry) else "label_unreadable"
        seen.findings.append(Finding(kind, name, _without_name(error, name)))
        return None
    if seen.entry.label_file and seen.entry.label_file().startswith(JPEG_START):
        # Its values are noise, and would only bury what the other labels show.
        seen.findings.append(Finding("label_lossy", name))
        return raw
    seen.label_digest = _digest(raw)
    seen.values = _count(raw)
    unknown = {value: count for value, count in seen.values.items() if value not in subject.rule}
    if unknown:
        listed = ", ".join(f"{value} ({count} pixel{'s' * (count > 1)})" for value, count in unknown.items())
        seen.findings.append(Finding("unknown_values", name, listed))
    if 0 in seen.values:
        seen.zero_outline = _outline(raw == 0)
    return raw


def _count(raw: Integer[np.ndarray, "h w"]) -> dict[int, int]:
    """Value -> pixels, in the order of the values."""
    if raw.dtype in (np.uint8, np.uint16):  # a histogram, tenfold faster than the sorting inside np.unique
        counts = np.bincount(raw.ravel())
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    return dict(zip(*(part.tolist() for part in np.unique(raw, return_counts=True)), strict=True))


def _outline(region: np.ndarray) -> int:
    """How many pixels of a region lie near its border, that of the picture apart."""
    side = 2 * OUTLINE_REACH + 1
    core = cv2.erode(region.astype(np.uint8), np.ones((side, side), np.uint8))
    return int(region.sum()) - int(core.sum())


def _label_opens(entry: Entry) -> bool:
    """Whether the label is a whole picture, if not of class indices."""
    try:
        return entry.label_file is not None and bool(open_image(entry.label_file(), entry.label))
    except UserError:
        return False


def _digest(pixels: np.ndarray) -> str:
    header = f"{pixels.shape} {pixels.dtype} ".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def _without_name(error: UserError, name: str) -> str:
    """The error's words after the file's name, which the report gives in another place."""
    return str(error).rpartition(f"{name} ")[2]
