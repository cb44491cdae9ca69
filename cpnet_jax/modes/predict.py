"""--mode=predict: a trained network on one's own images."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.images import read_ahead, read_image
from cpnet_jax.inference.inputs import InputImage, find_images
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.outputs import FOLDERS, PredictionWriter
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.settings import limits, make_protocol
from cpnet_jax.inference.submissions import FORMATS, Submission
from cpnet_jax.runtime import files
from cpnet_jax.runtime.progress import Progress

# That read images, and as many that write predictions.
THREADS = 2


def predict(
    images: Sequence[str],
    *,
    workdir: Path | None,
    exported: Path | None,
    checkpoint: str | int,
    settings: Mapping[str, Any] | None,
    multi_scale: bool | None,
    output: Path | None,
    overlays: bool,
    probabilities: bool,
    submission: str | None = None,
) -> None:
    """Writes the prediction of every image that can be read, and names those that cannot.

    Args:
      images: files, folders and patterns.
      workdir, exported: where the network is, one of them given.
      checkpoint: "latest", "best" or a step, of a workdir.
      settings: config.eval of a config that was given; else the network's own count.
      multi_scale: over the settings' scales and flip; None: as the settings say.
      output: WORKDIR/predictions, or predictions/ for an exported network, where None.
      overlays, probabilities: whether to write them as well.
      submission: the benchmark to write a submission to: "cityscapes" or "ade20k".

    Raises:
      UserError: where there are no images, no network or no place to write, or not one image could be read.
    """
    # Pillow warns of odd but readable files; what it cannot read is told below.
    warnings.filterwarnings("ignore", module="PIL")
    output = output or (workdir / "predictions" if workdir else Path("predictions"))
    if submission and files.is_remote(output):
        raise UserError(f"--submission is packed and checked on a local disk: give an --output there, not {output}")
    found = find_images(images, outputs=[output / name for name in FOLDERS])
    mesh = sharding.make_mesh()
    model = _load(workdir, exported, checkpoint, mesh)
    settings = model.origin.get("eval", {}) if settings is None else settings
    protocol = make_protocol(settings, multi_scale)
    files.make_folder(output, "--output")
    entry = submission and Submission(FORMATS[submission], output / f"submission_{submission}")
    if entry:
        entry.begin(model.dataset, [image.path for image in found.images])
    predictor = Predictor(model, mesh, protocol=protocol, **limits(settings))
    print(_announcement(len(found.images), found.skipped, model, protocol, probabilities), flush=True)
    start = time.monotonic()
    # A benchmark's labels were made for the images as they are stored.
    read = partial(_read, upright=entry is None)
    description = _description(model, protocol)
    with PredictionWriter(
        output, model.dataset, description=description, overlays=overlays, submission=entry, threads=THREADS
    ) as writer:
        unreadable = _run(found.images, read, predictor, writer, probabilities)
    _report(len(found.images) - len(unreadable), unreadable, time.monotonic() - start, output)
    if entry:
        entry.finish()


def _load(workdir: Path | None, exported: Path | None, checkpoint: str | int, mesh: Mesh) -> TrainedModel:
    if exported is None:
        return from_workdir(workdir, mesh, checkpoint)
    from cpnet_jax.inference.export import load_exported

    return load_exported(exported, mesh)


def _run(
    images: Sequence[InputImage],
    read: Callable[[InputImage], Any],
    predictor: Predictor,
    writer: PredictionWriter,
    probabilities: bool,
) -> list[UserError]:
    """Predicts and writes; returns what was wrong with the images that could not be read."""
    unreadable: list[UserError] = []
    with Progress(len(images), "Predicting", unit="image") as progress:
        told = 0
        predictions = _predictions(predictor, _examples(images, read, unreadable), probabilities)
        for done, (example, classes, scores) in enumerate(predictions, start=1):
            writer.write(example["source"], example["image"], classes, scores)
            for _ in range(told, done + len(unreadable)):
                progress.advance()
            told = done + len(unreadable)
    return unreadable


def _examples(
    images: Sequence[InputImage], read: Callable[[InputImage], Any], unreadable: list[UserError]
) -> Iterator[dict[str, Any]]:
    for image, pixels in zip(images, read_ahead(read, images, threads=THREADS), strict=True):
        if isinstance(pixels, UserError):
            unreadable.append(pixels)
        else:
            yield {"source": image, "image": pixels}


def _read(image: InputImage, *, upright: bool) -> UInt8[np.ndarray, "h w 3"] | UserError:
    try:
        return read_image(image.path, upright=upright)
    except UserError as error:
        return error


def _predictions(
    predictor: Predictor, examples: Iterator[dict[str, Any]], probabilities: bool
) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w k"] | None]]:
    if not probabilities:
        yield from ((example, classes, None) for example, classes in predictor.classes(examples))
        return
    for example, scores in predictor.probabilities(examples):
        yield example, scores.argmax(axis=-1).astype(np.uint8), scores


def _description(model: TrainedModel, protocol: Protocol) -> dict[str, Any]:
    """predictions.json: what the indices mean, and how they were found."""
    return {
        "classes": list(model.dataset.classes),
        "palette": [list(colour) for colour in model.dataset.palette],
        "network": {name: value for name, value in model.origin.items() if name != "eval"},
        "settings": {**vars(protocol), "window": list(model.crop_size)},
    }


def _announcement(count: int, skipped: int, model: TrainedModel, protocol: Protocol, probabilities: bool) -> str:
    origin = model.origin
    said = [f"{count} image(s)" + (f" ({skipped} other file(s) skipped)" if skipped else "")]
    said.append(f"{len(model.dataset.classes)} classes of {model.dataset.name}")
    if "step" in origin:
        said.append(f"the network of step {origin['step']}")
    said.append(f"{len(protocol.scales)} scale(s)" + (" and flip" if protocol.flip else ""))
    if probabilities:
        said.append(f"probabilities of {2 * len(model.dataset.classes)} bytes a pixel before compression")
    return f"{', '.join(said)}. The first image compiles."


def _report(written: int, unreadable: Sequence[UserError], seconds: float, output: Path) -> None:
    for error in unreadable:
        print(f"warning: {error}", file=sys.stderr)
    if not written:
        raise UserError(f"none of the {len(unreadable)} image(s) could be read: see the reasons above")
    failed = f"; {len(unreadable)} could not be read, see the warnings" if unreadable else ""
    print(
        f"{written} prediction(s) in {output}{failed}. {seconds:.1f} s, {written / seconds:.1f} images/s, compilation "
        "included."
    )
