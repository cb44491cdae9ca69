"""--mode=predict: predicts image files with a trained network."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from jax.sharding import Mesh

from cpnet_jax import sharding
from cpnet_jax.config.check import check_config
from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import FoundImages, find_images
from cpnet_jax.inference.load import from_workdir
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.outputs import FOLDERS, PredictionWriter
from cpnet_jax.inference.predict_files import description, predict_files
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.settings import make_predictor, make_protocol
from cpnet_jax.inference.submissions import FORMATS, Submission
from cpnet_jax.modes import Call, flags
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

# What can be named instead of a workdir.
OR_MODEL = ", or an exported network by --model"


def predict(
    images: Sequence[str],
    *,
    workdir: AnyPath | None,
    exported: AnyPath | None,
    checkpoint: str | int,
    settings: Mapping[str, Any] | None,
    multi_scale: bool | None,
    output: AnyPath | None,
    overlays: bool,
    probabilities: bool,
    submission: str | None = None,
) -> None:
    """Writes a prediction for every image that can be read, and prints a warning for each of the others.

    Args:
      images: files, folders and patterns.
      workdir, exported: location of the network; exactly one is given.
      checkpoint: "latest", "best" or a step of the workdir.
      settings: config.eval of the config given by flags; None: the settings stored with the network.
      multi_scale: whether to use the settings' scales and flip; None: as the settings say.
      output: folder to write to; None: WORKDIR/predictions, or predictions/ for an exported network.
      overlays, probabilities: whether to write these, too.
      submission: benchmark to write a submission for, "cityscapes" or "ade20k".

    Raises:
      UserError: if there is no image, no network, no writable output, or no image can be read.
    """
    output = _output(output, workdir, submission)
    written = [*FOLDERS, *map(_submission_folder, FORMATS)]
    found = find_images(images, outputs=[output / name for name in written])
    mesh = sharding.make_mesh()
    model = _load(workdir, exported, checkpoint, mesh)
    settings = model.origin.get("eval", {}) if settings is None else settings
    protocol, windows = make_protocol(settings, multi_scale), settings.get("windows", True)
    predictor = make_predictor(model, mesh, settings, multi_scale)
    files.make_folder(output, "--output")
    entry = _begin_submission(submission, output, model, found) if submission else None
    print(_announcement(found, model, protocol, probabilities), flush=True)
    start = time.monotonic()
    about = description(model, protocol, windows=windows)
    with PredictionWriter(output, model.dataset, description=about, overlays=overlays, submission=entry) as writer:
        # A benchmark's labels were made for the images as they are stored, so these are not turned upright.
        upright = entry is None
        unreadable = predict_files(
            found.images,
            predictor,
            writer,
            upright=upright,
            value_range=model.value_range,
            probabilities=probabilities,
        )
    _report(writer.written, unreadable, time.monotonic() - start, output)
    if entry:
        entry.finish()


def _output(output: AnyPath | None, workdir: AnyPath | None, submission: str | None) -> AnyPath:
    output = output or (workdir / "predictions" if workdir else Path("predictions"))
    if submission and files.is_remote(output):
        raise UserError(f"--output is {output}: --submission needs a local disk, so name a local folder")
    return output


def _load(workdir: Any, exported: AnyPath | None, checkpoint: str | int, mesh: Mesh) -> TrainedModel:
    if exported is None:
        return from_workdir(workdir, mesh, checkpoint)
    from cpnet_jax.inference.export import load_exported

    return load_exported(exported, mesh)


def _submission_folder(benchmark: str) -> str:
    return f"submission_{benchmark}"


def _begin_submission(benchmark: str, output: AnyPath, model: TrainedModel, found: FoundImages) -> Submission:
    submission = Submission(FORMATS[benchmark], files.as_local_path(output / _submission_folder(benchmark)))
    submission.begin(model.dataset, [image.path for image in found.images])
    return submission


def _announcement(found: FoundImages, model: TrainedModel, protocol: Protocol, probabilities: bool) -> str:
    parts = [f"{len(found.images)} image(s)" + (f" ({found.skipped} other file(s) skipped)" if found.skipped else "")]
    parts.append(f"{len(model.dataset.classes)} classes of {model.dataset.name}")
    if "step" in model.origin:
        parts.append(f"the network of step {model.origin['step']}")
    parts.append(f"{len(protocol.scales)} scale(s)" + (" and flip" if protocol.flip else ""))
    if probabilities:
        parts.append(f"probabilities of {2 * len(model.dataset.classes)} bytes per pixel before compression")
    return f"{', '.join(parts)}. The first image compiles."


def _report(written: int, unreadable: Sequence[UserError], seconds: float, output: AnyPath) -> None:
    for error in unreadable:
        print(f"warning: {error}", file=sys.stderr)
    if not written:
        raise UserError(f"none of the {len(unreadable)} image(s) could be read: see the warnings above")
    failed = f"; {len(unreadable)} could not be read, see the warnings" if unreadable else ""
    print(
        f"{written} prediction(s) in {output}{failed}. {seconds:.1f} s, {written / seconds:.1f} images/s, compilation "
        "included."
    )


def run(call: Call) -> None:
    predict(**arguments(call.config, call.workdir))


def arguments(config: ml_collections.ConfigDict | None, workdir: AnyPath | None) -> dict[str, Any]:
    """The arguments of `predict` from the flags.

    Raises:
      UserError: if the flags name no network or two, or the config cannot work.
    """
    if config is not None:
        check_config(config)
    if flags.MODEL.value and workdir:
        raise UserError("--model and --workdir both name a network: give one of them")
    return {
        "images": flags.IMAGES.value,
        "workdir": None if flags.MODEL.value else flags.workdir_of(config, workdir, alternative=OR_MODEL),
        "exported": flags.exported_network(),
        "checkpoint": flags.checkpoint_of(config),
        "settings": config and config.eval.to_dict(),
        "multi_scale": flags.MULTI_SCALE.value,
        "output": flags.path(flags.OUTPUT),
        "overlays": flags.OVERLAYS.value,
        "probabilities": flags.PROBABILITIES.value,
        "submission": flags.SUBMISSION.value,
    }
