"""The flags of the program, and functions that check and convert their values."""

import math
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from cpnet_jax.config import of_the_network, recorded
from cpnet_jax.errors import UserError, quoted
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="the experiment: a config file, or the name of one in configs/; default: that of the run in --workdir",
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder for the run's files; default: runs/NAME")
MODE = flags.DEFINE_string("mode", "train", "what to do; one of the modes above")

# Flags of some modes; the table in `modes` says which mode reads which.
IMAGES = flags.DEFINE_multi_string(
    "images",
    [],
    "images, folders (with subfolders) or quoted patterns ('photos/**/*.jpg'), separated by commas; may be repeated",
)
MODEL = flags.DEFINE_string("model", None, "an exported network, instead of that of --workdir")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "latest, best (by validation mIoU) or a step number; default: config.eval.checkpoint, or latest"
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: a folder, default WORKDIR/predictions; export: a file, default WORKDIR/NAME.cpnet; convert: a file, "
    ".safetensors or .pth, default WORKDIR/NAME.safetensors; compare: a file, default comparison.html",
)
RUNS = flags.DEFINE_multi_string(
    "runs", [], "workdirs, folders of evaluations and exported files, separated by commas; the first is the reference"
)
PORT = flags.DEFINE_integer("port", 7860, "the local port of the page", lower_bound=1, upper_bound=65535)
OVERLAYS = flags.DEFINE_boolean("overlays", True, "also draw the classes over each image")
PROBABILITIES = flags.DEFINE_boolean("probabilities", False, "also write the probability of every class (large files)")
MULTI_SCALE = flags.DEFINE_boolean(
    "multi_scale", None, "average over the scales and flip of config.eval; more accurate and slower"
)
SUBMISSION = flags.DEFINE_enum(
    "submission", None, ["cityscapes", "ade20k"], "the benchmark whose test server takes the predictions"
)
ARCHIVE = flags.DEFINE_string("archive", None, "the zip archive or folder to check")
WEIGHTS = flags.DEFINE_string(
    "weights", None, "PyTorch weights: a .safetensors or .pth file, or hf://ORG/MODEL, to be converted"
)
WEIGHTS_ORDER = flags.DEFINE_enum("weights_order", None, ["rgb", "bgr"], "channel order that --weights expects")
WEIGHTS_MEAN = flags.DEFINE_list(
    "weights_mean", None, "image mean that --weights expects: R,G,B in 0 to 255; default: the file's own, or ImageNet's"
)
WEIGHTS_STD = flags.DEFINE_list("weights_std", None, "image standard deviation that --weights expects, likewise")
TOPOLOGY = flags.DEFINE_multi_string(
    "topology", [], "TPU slices or GPUs, for example v5e:4x4, v4:2x2x4 or h100:8, separated by commas; may be repeated"
)
IMAGES_PER_CHIP = flags.DEFINE_list(
    "images_per_chip",
    [],
    "numbers of images per chip or GPU, for example 1,2,4,8; default: the config's batch over them",
)
FIND_LARGEST = flags.DEFINE_boolean(
    "find_largest", True, "also find the largest number of images per chip or GPU that fits"
)

# Flags of runs with several processes.
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, the same on every process; only if neither Cloud TPU, Slurm nor Open MPI started them",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes; 1: this process runs alone")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0")

OF_EVERY_MODE = (CONFIG, WORKDIR, MODE)
OF_SEVERAL_PROCESSES = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)


def workdir_of(config: ml_collections.ConfigDict | None, workdir: AnyPath | None, *, alternative: str = "") -> AnyPath:
    """The workdir whose network a mode uses: the one that is named, or the one of the named config.

    Args:
      config: the config of --config, if it is given.
      workdir: the folder of --workdir, if it is given.
      alternative: what can be named instead, for the message.

    Raises:
      UserError: if neither is named, or a field of the network is set to another value than the run has.
    """
    if workdir is None:
        if config is None:
            raise UserError(f"--workdir is missing: name the folder of a training run{alternative}")
        workdir = Path(f"runs/{config.name}")
    run = str(workdir)
    if config is not None and recorded.file(run).is_file():
        of_the_network.check_given(given_fields(), config, lambda: recorded.fields(run), workdir)
    return workdir


def given_fields() -> list[str]:
    """The names of the config's fields that are set on the command line; none without --config."""
    return list(config_flags.get_override_values(flags.FLAGS[CONFIG.name])) if CONFIG.present else []


def checkpoint_of(config: ml_collections.ConfigDict | None) -> str | int:
    """The checkpoint to use: "latest", "best" or a step number.

    Raises:
      UserError: if --checkpoint is anything else.
    """
    value = CHECKPOINT.value
    if value is None:
        value = config.eval.checkpoint if config else "latest"
    if value in ("latest", "best"):
        return value
    if not value.isdecimal() or len(value) > 18:  # Python refuses to read numbers of thousands of digits
        raise UserError(f"--checkpoint is {quoted(value)}: it must be latest, best or a step number")
    return int(value)


def rgb(flag: flags.FlagHolder) -> tuple[float, float, float] | None:
    """A flag's three numbers; None if it is not given. Raises UserError on anything else."""
    if flag.value is None:
        return None
    try:
        red, green, blue = map(float, flag.value)
        if not all(map(math.isfinite, (red, green, blue))):
            raise ValueError("not finite")
    except ValueError as error:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: give three numbers, R,G,B") from error
    return red, green, blue


def path(flag: flags.FlagHolder) -> AnyPath | None:
    """A flag's path, local or in an object store; None if it is not given."""
    return files.as_path(flag.value) if flag.value else None


def exported_network(fixed: tuple[str, ...] = of_the_network.FIELDS) -> Path | None:
    """The file of --model; None if it is not given.

    Args:
      fixed: beginnings of the config fields that the file decides.

    Raises:
      UserError: if --checkpoint or one of these fields is given, too.
    """
    path = local_path(MODEL)
    if path and CHECKPOINT.present:
        raise UserError("--checkpoint is given with --model: leave it out, an exported file has one network")
    if path and (fields := [field for field in given_fields() if field.startswith(fixed)]):
        raise UserError(f"--config.{fields[0]} is given with --model: leave it out, the file has its own network")
    return path


def local_path(flag: flags.FlagHolder) -> Path | None:
    """A flag's path on a local disk; None if it is not given. Raises UserError on a path in an object store."""
    if not flag.value:
        return None
    if files.is_remote(flag.value):
        raise UserError(f"--{flag.name}={flag.value} is in an object store: copy it to a local disk first")
    return files.as_local_path(flag.value)
