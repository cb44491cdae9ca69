"""--mode=export: a trained workdir's network as one file."""

from pathlib import Path
from typing import Any

import ml_collections

from cpnet_jax import build, files
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.export import export_model
from cpnet_jax.training.checkpoint import Checkpoints

SUFFIX = ".cpnet"


def export_workdir(workdir: Path, output: Path | None, checkpoint: str) -> None:
    """Exports a checkpoint; the data are not needed, but for one's own folder its class file is.

    Args:
      workdir: of a run.
      output: the file; WORKDIR/NAME.cpnet unless given.
      checkpoint: "latest" or "best".

    Raises:
      UserError: where the workdir holds no checkpoint, or the file cannot be written or is not what the network is.
    """
    config, step, state = restore(workdir, checkpoint)
    path = output or workdir / f"{config.name}{SUFFIX}"
    if path.is_dir():
        raise UserError(f"--output={path} is a folder: name a file in it, {path / config.name}{SUFFIX} for instance")
    files.make_folder(path.parent, "--output")
    dataset = build.make_dataset(config)
    trained, now = list(config.trained_on.classes), list(dataset.classes)
    if trained != now:
        raise UserError(
            f"{workdir} was trained on other classes than {dataset.name} has ({len(trained)} then, {len(now)} now): "
            "restore the class file"
        )
    print(f"Exporting step {step} of {workdir}, and comparing the file with the live network.", flush=True)
    agreement = export_model(
        path,
        build.make_model(config),
        {"params": state["params"], "batch_stats": state["batch_stats"]},
        dataset=dataset,
        crop_size=tuple(config.data.crop_size),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        origin={"experiment": config.name, "step": step},
    )
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB. Logits differ from the live network's by at most "
        f"{agreement.difference:.1e} of the largest; {agreement.pixels:.4%} of the pixels have the same class."
    )


def restore(workdir: Path, checkpoint: str) -> tuple[ml_collections.ConfigDict, int, dict[str, Any]]:
    """(config, step, state as nested dicts) of a checkpoint, "latest" or "best", without the data it was trained on.

    Raises:
      UserError: where there is none.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints: train first, or name another --workdir")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.best() if checkpoint == "best" else checkpoints.latest()
        if step is None:
            raise UserError(f"{workdir}/checkpoints holds no whole checkpoint: train first, or name another --workdir")
        return ml_collections.ConfigDict(checkpoints.config(step)), step, checkpoints.restore_as_saved(step)
