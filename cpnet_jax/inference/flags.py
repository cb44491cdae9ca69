"""The flags of --mode=predict."""

from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from cpnet_jax.errors import UserError

IMAGES = flags.DEFINE_multi_string(
    "images",
    [],
    "predict: image files, folders (with all below) or patterns in quotes ('photos/**/*.jpg'); several are divided by "
    "commas, or the flag is repeated.",
)
MODEL = flags.DEFINE_string("model", None, "predict: an exported network, instead of --workdir.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "predict: latest, best or a step; config.eval.checkpoint if not.")
OUTPUT = flags.DEFINE_string("output", None, "predict: folder to write to; WORKDIR/predictions unless given.")
OVERLAYS = flags.DEFINE_boolean("overlays", True, "predict: draw the classes over each image, too.")
PROBABILITIES = flags.DEFINE_boolean("probabilities", False, "predict: write every class's probability, too (large).")
MULTI_SCALE = flags.DEFINE_boolean("multi_scale", None, "predict: over the scales and flip of config.eval; slower.")


def arguments(config: ml_collections.ConfigDict | None, workdir: Path | None) -> dict[str, Any]:
    """Those of `inference.mode.predict`.

    Args:
      config: of --config, where it was given.
      workdir: of --workdir, where it was given.

    Raises:
      UserError: where the flags name no network, or two, or the config cannot work.
    """
    if config is not None:
        # Imported here, so that --help and mistakes in flags answer at once.
        from cpnet_jax import configuration

        configuration.check(config)
    if MODEL.value and workdir:
        raise UserError("--model and --workdir both name a network: give one of them")
    if workdir is None and config is not None and not MODEL.value:
        workdir = Path(f"runs/{config.name}")
    if workdir is None and not MODEL.value:
        raise UserError("--workdir is missing: name the folder of a training run, or an exported network by --model")
    checkpoint = CHECKPOINT.value
    if checkpoint not in (None, "latest", "best") and not checkpoint.isdecimal():
        raise UserError(f"--checkpoint is {checkpoint!r}: it must be latest, best or the number of a step")
    return {
        "images": IMAGES.value,
        "workdir": workdir,
        "exported": _path(MODEL.value),
        "checkpoint": checkpoint,
        "settings": config and config.eval.to_dict(),
        "multi_scale": MULTI_SCALE.value,
        "output": _path(OUTPUT.value),
        "overlays": OVERLAYS.value,
        "probabilities": PROBABILITIES.value,
    }


def _path(value: str | None) -> Path | None:
    return Path(value).expanduser() if value else None
