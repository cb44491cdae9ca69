"""The program's modes: one table, and one file for each mode. docs/extending.md adds a mode."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from absl import flags as absl_flags

from cpnet_jax.errors import UserError
from cpnet_jax.modes import flags
from cpnet_jax.runtime.signals import Stop


class Call(NamedTuple):
    """The arguments of a mode.

    Attributes:
      config: ConfigDict of --config; without it that of the run in the workdir, if the mode needs one or fields are
        set; else None.
      workdir: Path of --workdir, or runs/NAME; None if neither is given.
      stop: reports requests to stop.
    """

    config: Any
    workdir: Any
    stop: Stop


@dataclass(frozen=True)
class Mode:
    """A row of the table of modes.

    Attributes:
      run: does the work.
      help: one sentence for --help.
      flags: the flags that it reads besides --config, --workdir and --mode.
      needs_config: whether it needs a config: by --config, or that of the run in the workdir.
      several_processes: whether several processes can share the work.
      uses_devices: whether it computes on JAX's devices.
      resumes: whether it continues when it is run again; if it does, stopping it exits with status 75.
    """

    run: Callable[[Call], None]
    help: str
    flags: tuple[absl_flags.FlagHolder, ...] = ()
    needs_config: bool = False
    several_processes: bool = False
    uses_devices: bool = True
    resumes: bool = False


def _from(module: str) -> Callable[[Call], None]:
    """The function `run` of a module in this package, imported when it is called, so that start-up stays quick."""

    def run(call: Call) -> None:
        import_module(f"cpnet_jax.modes.{module}").run(call)

    return run


MODES = {
    "train": Mode(
        _from("train"),
        "Train a network, or resume its training; evaluate it at the end.",
        needs_config=True,
        several_processes=True,
        resumes=True,
    ),
    "eval": Mode(
        _from("evaluate"),
        "Evaluate a trained network on labelled images; write eval.json and the report.",
        flags=(flags.MODEL, flags.CHECKPOINT, flags.MULTI_SCALE),
        needs_config=True,
        several_processes=True,
    ),
    "predict": Mode(
        _from("predict"),
        "Segment images of your own.",
        flags=(
            flags.IMAGES,
            flags.MODEL,
            flags.CHECKPOINT,
            flags.OUTPUT,
            flags.OVERLAYS,
            flags.PROBABILITIES,
            flags.MULTI_SCALE,
            flags.SUBMISSION,
        ),
    ),
    "compare": Mode(
        _from("compare"),
        "Compare trained networks on one page: curves, classes, the same images, configs.",
        flags=(flags.RUNS, flags.OUTPUT),
    ),
    "demo": Mode(
        _from("demo"),
        "Serve a local web page that segments the pictures dropped on it; needs the package gradio.",
        flags=(flags.MODEL, flags.CHECKPOINT, flags.PORT),
    ),
    "export": Mode(
        _from("export"),
        "Write a trained network to one file that needs neither this package nor its config.",
        flags=(flags.CHECKPOINT, flags.OUTPUT),
    ),
    "convert": Mode(
        _from("convert"),
        "Convert PyTorch weights to a workdir or a file, or a workdir's weights to a PyTorch file.",
        flags=(
            flags.WEIGHTS,
            flags.WEIGHTS_ORDER,
            flags.WEIGHTS_MEAN,
            flags.WEIGHTS_STD,
            flags.CHECKPOINT,
            flags.OUTPUT,
        ),
    ),
    "prepare": Mode(
        _from("prepare"),
        "Download a published dataset if needed, and read it into records, as the first training run would.",
        needs_config=True,
        several_processes=True,
    ),
    "check_data": Mode(
        _from("check_data"),
        "Examine a dataset for damaged files, missing partners and wrong labels.",
        needs_config=True,
    ),
    "check_submission": Mode(
        _from("check_submission"),
        "Check whether a benchmark's test server would accept an archive.",
        flags=(flags.SUBMISSION, flags.ARCHIVE, flags.IMAGES),
    ),
    "plan": Mode(
        _from("plan"),
        "Estimate a training step's time and memory on TPU slices and GPUs; needs neither.",
        flags=(flags.TOPOLOGY, flags.IMAGES_PER_CHIP, flags.FIND_LARGEST),
        needs_config=True,
        uses_devices=False,
    ),
}


def find(name: str) -> Mode:
    """The mode of that name. Raises UserError if it does not exist, or a flag is given that it does not read."""
    if name not in MODES:
        raise UserError(f"--mode={name} does not exist: choose one of {', '.join(MODES)}")
    readers: dict[str, list[str]] = {}
    for reader, mode in MODES.items():
        for flag in mode.flags:
            readers.setdefault(flag.name, []).append(reader)
    for flag_name, modes in readers.items():
        if absl_flags.FLAGS[flag_name].present and name not in modes:
            listed = " or ".join(f"--mode={reader}" for reader in modes)
            raise UserError(f"--{flag_name} is given with --mode={name}, which does not read it: it is for {listed}")
    return MODES[name]
