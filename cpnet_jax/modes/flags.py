"""The flags of single modes and of the processes of a run, and what they come to."""

import math
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from cpnet_jax.errors import UserError
from cpnet_jax.plan import topologies
from cpnet_jax.runtime import files

IMAGES = flags.DEFINE_multi_string(
    "images",
    [],
    "predict: image files, folders (with all below) or patterns in quotes ('photos/**/*.jpg'); several are divided by "
    "commas, or the flag is repeated.",
)
MODEL = flags.DEFINE_string("model", None, "predict: an exported network, instead of --workdir.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "predict, export, convert: latest, best or a step; latest unless given, or config.eval.checkpoint.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: folder to write to, WORKDIR/predictions unless given; export: file, WORKDIR/NAME.cpnet unless given; "
    "convert: file, .safetensors or .pth, WORKDIR/NAME.safetensors unless given.",
)
OVERLAYS = flags.DEFINE_boolean("overlays", True, "predict: draw the classes over each image, too.")
PROBABILITIES = flags.DEFINE_boolean("probabilities", False, "predict: write every class's probability, too (large).")
MULTI_SCALE = flags.DEFINE_boolean(
    "multi_scale", None, "predict, eval: over the scales and flip of config.eval; slower."
)
SUBMISSION = flags.DEFINE_enum(
    "submission",
    None,
    ["cityscapes", "ade20k"],
    "predict: write what the benchmark's test server takes, too; check_submission: whose server.",
)
ARCHIVE = flags.DEFINE_string("archive", None, "check_submission: the zip archive, or folder, to check.")
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "convert: PyTorch's weights, .safetensors or .pth or hf://ORG/MODEL; a whole CPNet becomes a workdir, or with "
    "--output another file.",
)
WEIGHTS_ORDER = flags.DEFINE_enum("weights_order", None, ["rgb", "bgr"], "convert: of the channels that they expect.")
WEIGHTS_MEAN = flags.DEFINE_list(
    "weights_mean", None, "convert: of the images that they expect, R,G,B of 0 .. 255; ImageNet's unless they say."
)
WEIGHTS_STD = flags.DEFINE_list("weights_std", None, "convert: the standard deviation, likewise.")
TOPOLOGY = flags.DEFINE_multi_string(
    "topology",
    [],
    "plan: slices of TPUs, as v5e:4x4 or v4:2x2x4; several are divided by commas, or the flag is repeated.",
)
IMAGES_PER_CHIP = flags.DEFINE_list(
    "images_per_chip", [], "plan: numbers of images, as 1,2,4,8; unless given, the config's batch over the chips."
)
FIND_LARGEST = flags.DEFINE_boolean("find_largest", True, "plan: find the most images a chip that fit, too.")

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, where train, eval and prepare run in several processes that neither Cloud TPU, Slurm nor "
    "Open MPI started; the same for all of them.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are; 1: this one is alone.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")


def processes() -> dict[str, Any]:
    """The arguments of `distributed.start`."""
    return {"coordinator": COORDINATOR.value, "num_processes": NUM_PROCESSES.value, "process_id": PROCESS_ID.value}


OF_PREDICT = (IMAGES, MODEL, CHECKPOINT, OUTPUT, OVERLAYS, PROBABILITIES, MULTI_SCALE, SUBMISSION)
OF_WEIGHTS = (WEIGHTS, WEIGHTS_ORDER, WEIGHTS_MEAN, WEIGHTS_STD)
OF_SOME_MODES = (*OF_PREDICT, *OF_WEIGHTS, ARCHIVE, TOPOLOGY, IMAGES_PER_CHIP, FIND_LARGEST)
# Which of them a mode reads.
READ = {
    "eval": {"checkpoint", "multi_scale"},
    "predict": {flag.name for flag in OF_PREDICT},
    "export": {"checkpoint", "output"},
    "convert": {"checkpoint", "output", *(flag.name for flag in OF_WEIGHTS)},
    "check_submission": {"images", "submission", "archive"},
    "plan": {"topology", "images_per_chip", "find_largest"},
}


def check(mode: str) -> None:
    """Raises UserError on a flag that the mode would not read: nobody should believe that it did."""
    for flag in OF_SOME_MODES:
        if flag.present and flag.name not in READ.get(mode, ()):
            readers = " or ".join(f"--mode={name}" for name, read in READ.items() if flag.name in read)
            raise UserError(f"--{flag.name} is given with --mode={mode}, which does not read it: it is for {readers}")


def apply_to_evaluation(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config as --multi_scale and --checkpoint change it; a checkpoint by its step is no choice there."""
    if MULTI_SCALE.present:
        config.eval.multi_scale = MULTI_SCALE.value
    if CHECKPOINT.present:
        config.eval.checkpoint = CHECKPOINT.value
    return config


def predict_arguments(config: ml_collections.ConfigDict | None, workdir: Path | None) -> dict[str, Any]:
    """Those of `modes.predict.predict`.

    Args:
      config: of --config, where it was given.
      workdir: of --workdir, where it was given.

    Raises:
      UserError: where the flags name no network, or two, or the config cannot work.
    """
    if config is not None:
        # Imported here, so that --help and mistakes in flags answer at once.
        from cpnet_jax.config.check import check_config

        check_config(config)
    if MODEL.value and workdir:
        raise UserError("--model and --workdir both name a network: give one of them")
    if not MODEL.value:
        workdir = _workdir(config, workdir)
    return {
        "images": IMAGES.value,
        "workdir": workdir,
        "exported": _local(MODEL),
        "checkpoint": _checkpoint(config),
        "settings": config and config.eval.to_dict(),
        "multi_scale": MULTI_SCALE.value,
        "output": _path(OUTPUT),
        "overlays": OVERLAYS.value,
        "probabilities": PROBABILITIES.value,
        "submission": SUBMISSION.value,
    }


def export_arguments(config: ml_collections.ConfigDict | None, workdir: Path | None) -> dict[str, Any]:
    """Those of `modes.export.export_workdir`; see `predict_arguments`."""
    return {"workdir": _workdir(config, workdir), "output": _path(OUTPUT), "checkpoint": _checkpoint(config)}


def convert_arguments(config: ml_collections.ConfigDict | None, workdir: Path | None) -> dict[str, Any]:
    """Those of `modes.convert.convert`; see `predict_arguments`."""
    if WEIGHTS.value and CHECKPOINT.present:
        raise UserError("--checkpoint is given with --weights: it chooses among those of a --workdir, so leave it out")
    if not WEIGHTS.value:
        for flag in (WEIGHTS_ORDER, WEIGHTS_MEAN, WEIGHTS_STD):
            if flag.present:
                raise UserError(f"--{flag.name} is given without --weights: name the file that it is about, too")
        if WEIGHTS.present or (workdir is None and config is None):
            raise UserError(
                "--weights is missing: name PyTorch's weights, or by --workdir the run whose network to write"
            )
        workdir = _workdir(config, workdir)
    return {
        "source": WEIGHTS.value,
        "config": config,
        "workdir": workdir,
        "output": _path(OUTPUT),
        "checkpoint": _checkpoint(config),
        "pixels": {"order": WEIGHTS_ORDER.value, "mean": _triple(WEIGHTS_MEAN), "std": _triple(WEIGHTS_STD)},
    }


def submission_arguments() -> dict[str, Any]:
    """Those of `modes.check_submission.check_submission`."""
    return {"benchmark": SUBMISSION.value, "archive": _local(ARCHIVE), "images": IMAGES.value}


def plan_arguments() -> dict[str, Any]:
    """Those of `modes.plan.plan`, but for the config.

    Raises:
      UserError: where no topology is named or one is unknown, or images are no numbers.
    """
    names = [name for value in TOPOLOGY.value for name in value.split(",")]
    if not names:
        raise UserError("--topology is missing: name a slice of TPUs, --topology=v5e:4x4 for instance")
    wrong = [value for value in IMAGES_PER_CHIP.value if not value.isdecimal() or not int(value)]
    if wrong:
        raise UserError(f"--images_per_chip has {wrong[0]!r}: give numbers of images, as 1,2,4,8")
    return {
        "slices": [topologies.parse(name) for name in dict.fromkeys(names)],
        "images_per_chip": sorted({int(value) for value in IMAGES_PER_CHIP.value}),
        "find_largest": FIND_LARGEST.value,
    }


def _workdir(config: ml_collections.ConfigDict | None, workdir: Path | None) -> Path:
    if workdir is None and config is None:
        raise UserError(
            "--workdir is missing: name the folder of a training run (or an exported network by --model, to predict)"
        )
    return workdir or Path(f"runs/{config.name}")


def _checkpoint(config: ml_collections.ConfigDict | None) -> str | int:
    value = CHECKPOINT.value or (config.eval.checkpoint if config else "latest")
    if value in ("latest", "best"):
        return value
    if not value.isdecimal():
        raise UserError(f"--checkpoint is {value!r}: it must be latest, best or the number of a step")
    return int(value)


def _triple(flag: flags.FlagHolder) -> tuple[float, ...] | None:
    if flag.value is None:
        return None
    try:
        red, green, blue = map(float, flag.value)
        if not all(map(math.isfinite, (red, green, blue))):
            raise ValueError("not finite")
    except ValueError as error:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: give three numbers, R,G,B") from error
    return red, green, blue


def _path(flag: flags.FlagHolder) -> Path | None:
    return files.as_path(flag.value) if flag.value else None


def _local(flag: flags.FlagHolder) -> Path | None:
    if flag.value and files.is_remote(flag.value):
        raise UserError(f"--{flag.name}={flag.value} is in an object store: copy it to a local disk first")
    return _path(flag)
