"""--mode=export: exports a workdir's network as one file."""

import time
from collections.abc import Mapping
from typing import Any

from cpnet_jax import sharding
from cpnet_jax.config.check import check_config
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export.export import export_model
from cpnet_jax.inference.load import restore
from cpnet_jax.modes import Call, flags
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

SUFFIX = ".cpnet"


def export_workdir(
    workdir: AnyPath, output: AnyPath | None, checkpoint: str | int, settings: Mapping[str, Any] | None = None
) -> None:
    """Exports a checkpoint; does not need the training data.

    Args:
      workdir: the folder of a run.
      output: the file to write; None: WORKDIR/NAME.cpnet.
      checkpoint: "latest", "best" or a step.
      settings: config.eval, which the file states for predictions with it; None: that of the run.

    Raises:
      UserError: if there is no such checkpoint, the file cannot be written, or it differs from the live network.
    """
    began = time.monotonic()

    def announce(stage: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s: {stage}", flush=True)

    announce("reading the checkpoint")
    found = restore(workdir, sharding.make_mesh(), checkpoint)
    config = found.config
    path = output or workdir / f"{config.name}{SUFFIX}"
    if path.is_dir():
        raise UserError(f"--output={path} is a folder: name a file, for example {path / config.name}{SUFFIX}")
    files.make_folder(path.parent, "--output")
    print(f"Exporting step {found.step} of {workdir} and comparing the file with the live network.", flush=True)
    agreement = export_model(
        path,
        found.model,
        found.variables,
        dataset=found.dataset,
        crop_size=tuple(config.data.crop_size),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        value_range=found.value_range,
        origin={
            "experiment": config.name,
            "step": found.step,
            "eval": config.eval.to_dict() if settings is None else dict(settings),
        },
        announce=announce,
    )
    print(
        f"{path}: {files.size(path) / 1e6:.1f} MB. Logits differ from the live network's by at most "
        f"{agreement.difference:.1e} of the largest logit; {agreement.pixels:.4%} of the pixels have the same class."
    )


def run(call: Call) -> None:
    config = call.config
    if config is not None:
        check_config(config)
    workdir, settings = flags.workdir_of(config, call.workdir), config and config.eval.to_dict()
    export_workdir(workdir, flags.path(flags.OUTPUT), flags.checkpoint_of(config), settings)
