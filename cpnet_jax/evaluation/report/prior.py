"""The context prior to touch: the JSON that template/prior.js draws, and what is kept of earlier evaluations."""

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation import prior_pictures
from cpnet_jax.evaluation.report.embed import jpeg
from cpnet_jax.evaluation.samples import PriorMap
from cpnet_jax.inference.prior_maps import SampledPrior
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath
from cpnet_jax.runtime.standard_streams import printable

# Positions kept of each image's prior: of the newest evaluation and of earlier ones. P has the square of them.
POSITIONS = 1024
EARLIER_POSITIONS = 256
# Evaluations kept: the first and the newest, and others between them.
EVALUATIONS = 8
PICTURE_SIDE = 480
PICTURE_LIMIT = 150_000
# Of all packed priors together, in characters of the page. The newest ones are thinned to fit.
PRIORS_LIMIT = 4_000_000
COLOURS = 32
NAME = "priors.json"

Frame = dict[str, Any]  # the prior of an image at a step, as in the page


def touchable(
    maps: Sequence[PriorMap],
    dataset: Dataset,
    step: int,
    earlier: Sequence[Mapping[str, Any]] = (),
    *,
    ideal_from: str = "label",
) -> dict[str, Any]:
    """Returns what `touchPrior` of template/prior.js draws.

    Args:
      maps: the images.
      dataset: its class names.
      step: the step of the network.
      earlier: evaluations of earlier steps, see `read_kept`.
      ideal_from: what the maps' classes are from: "label" or "prediction".
    """
    before = [_earlier(shown, earlier) for shown in maps]
    left = PRIORS_LIMIT - sum(len(frame["values"]["packed"]) for frames in before for frame in frames)
    limit = left // max(len(maps), 1)
    return {
        "heat": prior_pictures.heat(np.linspace(0, 1, COLOURS)[None])[0].tolist(),
        "names": [printable(name) for name in dataset.classes],
        "unlabelled": dataset.ignore_label,
        "ideal_from": ideal_from,
        "images": [_image(shown, step, frames, limit) for shown, frames in zip(maps, before, strict=True)],
    }


def _earlier(shown: PriorMap, earlier: Iterable[Mapping[str, Any]]) -> list[Frame]:
    """The priors of the same image at earlier evaluations."""
    images = [image for found in earlier for image in found["images"]]
    return [image["frame"] for image in images if (image["id"], image["grid"]) == (shown.id, list(shown.prior.grid))]


def _image(shown: PriorMap, step: int, before: Sequence[Frame], limit: int) -> dict[str, Any]:
    prior = shown.prior
    frame = _frame(prior, step)
    while len(frame["values"]["packed"]) > limit and len(prior.values) > 1:
        prior = prior.thinned(len(prior.values) // 2)
        frame = _frame(prior, step)
    return {
        "id": printable(shown.id.encode("utf-8", "replace").decode("utf-8")),
        "picture": asdict(jpeg(Image.fromarray(shown.image), PICTURE_SIDE, PICTURE_LIMIT)),
        "grid": list(shown.prior.grid),
        "classes": None if shown.classes is None else shown.classes.ravel().tolist(),
        "marks": [list(mark) for mark in shown.marks],
        "frames": [*before, frame],
    }


def _frame(prior: SampledPrior, step: int) -> Frame:
    return {
        "step": step,
        "stride": prior.stride,
        "first": prior.first,
        "values": {"packed": _packed(prior.values), "side": len(prior.values)},
        "figures": None if prior.figures is None else _per_mille(prior.figures),
    }


def _packed(values: UInt8[np.ndarray, "p p"]) -> str:
    """Compresses the changes from row to row, which are smaller than the values."""
    changes = np.diff(values, axis=0, prepend=np.zeros_like(values[:1]))
    return base64.b64encode(zlib.compress(changes.tobytes(), level=6)).decode("ascii")


def _per_mille(figures: Float[np.ndarray, "p 3"]) -> list[list[int]]:
    """-1 stands for a figure that is not defined."""
    return np.where(np.isnan(figures), -1, np.round(1000 * np.nan_to_num(figures))).astype(int).tolist()


def read_kept(workdir: AnyPath, step: int) -> list[dict[str, Any]]:
    """The evaluations before a step that DIR/priors.json keeps, by ascending step; empty if it is missing or damaged.

    Returns:
      [{"step", "images": [{"id", "grid", "frame"}]}]
    """
    try:
        found = files.parse_json((workdir / NAME).read_bytes())
        return [kept for kept in found if kept["step"] < step] if _is_whole(found) else []
    except (OSError, ValueError, TypeError, LookupError):
        return []


def keep(workdir: AnyPath, maps: Sequence[PriorMap], step: int) -> None:
    """Adds an evaluation to DIR/priors.json, and removes later ones. Raises OSError if it cannot be written."""
    images = [
        {
            "id": shown.id.encode("utf-8", "replace").decode("utf-8"),
            "grid": list(shown.prior.grid),
            "frame": _frame(shown.prior.thinned(EARLIER_POSITIONS), step),
        }
        for shown in maps
    ]
    found = [*read_kept(workdir, step), {"step": step, "images": images}]
    files.write_text(workdir / NAME, json.dumps(evenly(found, EVALUATIONS)) + "\n")


def evenly(kept: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most `most` of the evaluations: the first, the last, and those that leave the smallest gaps between."""
    found = list(kept)
    while len(found) > most:
        gaps = [after["step"] - before["step"] for before, after in zip(found, found[2:], strict=False)]
        del found[1 + gaps.index(min(gaps))]
    return found


def _is_whole(found: Any) -> bool:
    """Whether every part of the file has the form that the page expects: it may come from a stranger."""
    return all(
        _is_number(kept["step"])
        and all(isinstance(image["id"], str) and _is_frame(image["frame"], *image["grid"]) for image in kept["images"])
        for kept in found
    )


def _is_frame(frame: Mapping[str, Any], height: Any, width: Any) -> bool:
    stride, side = frame["stride"], frame["values"]["side"]
    if not all(map(_is_number, (frame["step"], stride, frame["first"], side, height, width))):
        return False
    if (
        not 0 <= frame["first"] < stride
        or not height
        or not width
        or side != -(-height // stride) * -(-width // stride)
    ):
        return False
    figures = frame["figures"]
    good = figures is None or (len(figures) == side and all(len(row) == 3 for row in figures))
    return good and _unpacked_size(frame["values"]["packed"], side**2) == side**2


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _unpacked_size(packed: str, most: int) -> int:
    """Number of bytes, of which at most `most` + 1 are unpacked."""
    try:
        return len(zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), most + 1))
    except (zlib.error, binascii.Error):
        return -1
