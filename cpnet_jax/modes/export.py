"""--mode=export: a trained workdir's network as one file."""

from pathlib import Path

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.export import export_model
from cpnet_jax.inference.load import restore
from cpnet_jax.runtime import files

SUFFIX = ".cpnet"


def export_workdir(workdir: Path, output: Path | None, checkpoint: str | int) -> None:
    """Exports a checkpoint; the data it was trained on are not needed.

    Args:
      workdir: of a run.
      output: the file; WORKDIR/NAME.cpnet unless given.
      checkpoint: "latest", "best" or a step.

    Raises:
      UserError: where the workdir holds no such checkpoint, or the file cannot be written or is not what the network
        is.
    """
    found = restore(workdir, sharding.make_mesh(), checkpoint)
    config = found.config
    path = output or workdir / f"{config.name}{SUFFIX}"
    if path.is_dir():
        raise UserError(f"--output={path} is a folder: name a file in it, {path / config.name}{SUFFIX} for instance")
    files.make_folder(path.parent, "--output")
    print(f"Exporting step {found.step} of {workdir}, and comparing the file with the live network.", flush=True)
    agreement = export_model(
        path,
        found.model,
        found.variables,
        dataset=found.dataset,
        crop_size=tuple(config.data.crop_size),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        origin={"experiment": config.name, "step": found.step, "eval": config.eval.to_dict()},
    )
    print(
        f"{path}: {files.size(path) / 1e6:.1f} MB. Logits differ from the live network's by at most "
        f"{agreement.difference:.1e} of the largest; {agreement.pixels:.4%} of the pixels have the same class."
    )
