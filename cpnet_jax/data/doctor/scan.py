"""Examines pairs one by one; faulty data becomes a finding, not an exception."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import cv2
import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from cpnet_jax.data.builders.base import encode_label, open_image
from cpnet_jax.data.builders.masks import PalettesDiffer
from cpnet_jax.data.doctor.examined_data import Entry, ExaminedData
from cpnet_jax.data.doctor.findings import Finding
from cpnet_jax.data.image_files import (
    JPEG_START,
    UPRIGHT,
    bits_of,
    has_more_frames,
    is_deep,
    is_jpeg,
    orientation_of,
    pixel_values,
    upright_size,
)
from cpnet_jax.data.large_images import bands, work_on
from cpnet_jax.data.records import decode_record
from cpnet_jax.data.value_range import Extremes, ValueRange, extremes_of, to_8_bits
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.progress import track

# Pixels of value 0 within this distance of another value count as an outline; outlines of void are about 5 pixels wide.
OUTLINE_REACH = 3
# Unknown values of one label to keep; a photo in a label's place has thousands.
MOST_UNKNOWN = 100


@dataclass(eq=False)
class Observation:
    """Result of examining one pair.

    Attributes:
      entry: the pair.
      findings: its problems.
      size: (width, height) of the image as training uses it; None if it cannot be read.
      turn: EXIF orientation by which training uses the image turned; UPRIGHT: it uses the pixels as they are stored.
      extremes: lowest and highest value of an image of more than 8 bits; None for others.
      values: raw label value -> pixels, of all known values and at most MOST_UNKNOWN others; empty if the label cannot
        be read or was saved as a JPEG.
      zero_outline: number of pixels of raw value 0 near another value.
      image_digest, label_digest: hashes of the pixels; empty if they cannot be read.
    """

    entry: Entry
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    turn: int = UPRIGHT
    extremes: Extremes | None = None
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
    orientation = _look_at_image(seen)
    size = _look_at_label(seen, examined)
    if size and seen.size:
        _compare_sizes(seen, seen.size, orientation, size)
    return seen


def _compare_sizes(seen: Observation, stored: tuple[int, int], orientation: int, label: tuple[int, int]) -> None:
    """Compares the label's (width, height) with those of the image as training uses it."""
    turned_size = upright_size(stored, orientation)
    try:
        if seen.entry.to_be_turned(stored, orientation, label):
            seen.turn, seen.size = orientation, turned_size
    except UserError:
        seen.findings.append(Finding("orientation_unknown", seen.entry.image, f"orientation {orientation}"))
    if label != seen.size:
        sizes = "label {}x{}, image {}x{}".format(*label, *stored)
        because = " (its label was made for the image turned by its EXIF orientation)"
        seen.findings.append(Finding("size_mismatch", seen.entry.label, sizes + because * (label == turned_size)))


def _look_at_image(seen: Observation) -> int:
    """Examines the image; returns its EXIF orientation."""
    name = seen.entry.image
    try:
        data = seen.entry.image_file()
        with work_on(data):
            return _examine_image(seen, data)
    except UserError as error:
        seen.findings.append(Finding("image_unreadable", name, _without_name(error, name)))
        return UPRIGHT


def _examine_image(seen: Observation, data: bytes) -> int:
    """Examines the decoded image, see `_look_at_image`; raises UserError if it cannot be decoded."""
    name = seen.entry.image
    # Pillow detects truncated files; OpenCV, which training uses, fills them up with grey.
    picture = open_image(data, name)
    seen.size = picture.size
    try:
        values = _values(picture, data)
    except (UserError, ValueError):
        reason = f"training cannot decode {picture.format} of mode {picture.mode}: save it as JPEG or PNG"
        seen.findings.append(Finding("image_unreadable", name, reason))
    else:
        seen.image_digest = _digest(values)
        if is_deep(data):
            seen.extremes = extremes_of(values)
            seen.findings.append(Finding("image_deep", name, f"{bits_of(picture, data)} bits, values {seen.extremes}"))
        if values.dtype.kind == "f" and (strange := int((~np.isfinite(values)).sum())):
            seen.findings.append(Finding("image_not_finite", name, f"{strange} of {values.size} values"))
    orientation = orientation_of(picture)
    if orientation != UPRIGHT:
        seen.findings.append(Finding("image_turned", name, f"orientation {orientation}"))
    if has_more_frames(data):
        seen.findings.append(Finding("image_frames", name, f"of the format {picture.format}"))
    if kind := _unusual_mode(picture):
        seen.findings.append(Finding(kind, name, f"mode {picture.mode}"))
    return orientation


def _unusual_mode(picture: Image.Image) -> str | None:
    if picture.has_transparency_data:
        return "image_transparent"
    return {"1": "image_grey", "L": "image_grey", "CMYK": "image_cmyk"}.get(picture.mode)


def decode_image(data: bytes, value_range: ValueRange | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image as training does; raises UserError or ValueError if training could not.

    Args:
      data: bytes of an image file.
      value_range: range of images of more than 8 bits, see `to_8_bits`.
    """
    return to_8_bits(_values(open_image(data, "the image"), data), value_range)


def _values(picture: Image.Image, data: bytes) -> Shaped[np.ndarray, "h w ..."]:
    """Returns the values of an image before they are scaled to 8 bits."""
    if not data.startswith(JPEG_START):
        return pixel_values(picture, data)
    # Records hold JPEGs as they are, so training's decoder reads them.
    record = {"id": "", "image": data, "label": encode_label(np.zeros(picture.size[::-1], np.uint8))}
    return decode_record(record, num_classes=1, ignore_label=255)["image"]


def _look_at_label(seen: Observation, examined: ExaminedData) -> tuple[int, int] | None:
    """Examines the label; returns its (width, height), or None if it cannot be read."""
    name = seen.entry.label
    try:
        data = seen.entry.label_file() if seen.entry.label_file else b""
        with work_on(data):
            # The values of a JPEG are compression artefacts, so they are not counted.
            if is_jpeg(data):
                seen.findings.append(Finding("label_lossy", name))
                return open_image(data, name).size
            raw = seen.entry.raw_label()
            _examine_label(seen, raw, examined)
            return raw.shape[1], raw.shape[0]
    except PalettesDiffer as error:
        fault, _, _ = _without_name(error, name).partition(": set ")  # the report says what to do
        seen.findings.append(Finding("palettes_differ", name, fault))
    except UserError as error:
        kind = "label_no_indices" if _label_opens(seen.entry) else "label_unreadable"
        seen.findings.append(Finding(kind, name, _without_name(error, name)))
    return None


def _examine_label(seen: Observation, raw: Integer[np.ndarray, "h w"], examined: ExaminedData) -> None:
    """Counts the label's values, see `_look_at_label`."""
    seen.label_digest = _digest(raw)
    values = _count(raw)
    unknown = {value: count for value, count in values.items() if value not in examined.rule}
    kept = dict(islice(unknown.items(), MOST_UNKNOWN))
    seen.values = {value: count for value, count in values.items() if value in examined.rule or value in kept}
    if unknown:
        listed = [f"{value} ({count} pixel{'s' * (count > 1)})" for value, count in kept.items()]
        if len(unknown) > len(kept):
            listed.append(f"and {len(unknown) - len(kept)} more")
        seen.findings.append(Finding("unknown_values", seen.entry.label, ", ".join(listed)))
    if 0 in values:
        seen.zero_outline = _outline(raw == 0)


def _count(raw: Integer[np.ndarray, "h w"]) -> dict[int, int]:
    """Counts the pixels of each value, sorted by value."""
    if raw.dtype in (np.uint8, np.uint16):  # a histogram is ten times as fast as np.unique, which sorts
        counts = np.sum([np.bincount(raw[rows].ravel(), minlength=2**16) for rows in bands(*raw.shape)], axis=0)
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
