"""The program from its command line to its exit status: `python main.py`, or `cpnet` if the package is installed."""

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, logging

from cpnet_jax import modes
from cpnet_jax.config import command_line, experiments
from cpnet_jax.errors import UserError
from cpnet_jax.modes import flags
from cpnet_jax.modes.usage import HELP_FLAGS, usage
from cpnet_jax.runtime import exit_status, files, standard_streams, unknown_users, watchdog
from cpnet_jax.runtime.signals import Stop


def run() -> None:
    """Runs the mode that the command line names, and exits the process."""
    standard_streams.make_usable()
    unknown_users.name_by_number()
    logging.set_verbosity(logging.FATAL)  # libraries also log the errors that they raise
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns about unusual files, which are read all the same
    stop = Stop()
    stop.listen()
    exit_status.run(partial(app.run, partial(_main, stop), flags_parser=_parse))


def _parse(argv: list[str]) -> list[str]:
    if HELP_FLAGS & set(argv):
        print(usage())
        sys.exit(0)
    return command_line.parse(argv, needs_config={name: mode.needs_config for name, mode in modes.MODES.items()})


def _main(stop: Stop, argv: list[str]) -> None:
    _check_current_folder()
    if argv[1:]:
        raise UserError(
            f"{argv[1]!r} is not a flag: flags start with --, config fields with --config., and a pattern of files "
            "needs quotes"
        )
    mode = modes.find(flags.MODE.value)
    config = flags.CONFIG.value
    if flags.WORKDIR.value == "":
        raise UserError("--workdir is empty: name a folder, or leave the flag out")
    workdir = flags.WORKDIR.value and files.as_path(flags.WORKDIR.value)
    if mode.needs_config:
        workdir = workdir or Path(f"runs/{config.name}")
    if workdir:
        files.check_is_unicode(workdir, "--workdir")
    if mode.resumes:
        stop.expect_training()
    _import_jax()
    if config is not None:
        _check(config)
    if mode.uses_devices:
        _start_jax((config or experiments.default()).system.compilation_cache, mode)
        if mode.resumes:
            _print_first_line(config.name)
    mode.run(modes.Call(config, workdir, stop))


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be found ({error.strerror}): change to one that exists") from error


def _import_jax() -> None:
    """Imports JAX, after --help and mistakes in flags have been answered."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise UserError(
            f"JAX does not accept an environment variable ({error}): correct or unset that variable"
        ) from error


def _check(config: Any) -> None:
    """Raises UserError on a value that cannot work, before the imports and the devices, which take seconds."""
    from cpnet_jax.config.check import check_config  # imports JAX

    check_config(config)


def _start_jax(compilation_cache: str, mode: modes.Mode) -> None:
    # Imported here, since they import JAX.
    from cpnet_jax.runtime import distributed, jax_settings, memory, processes

    distributed.start(flags.COORDINATOR.value, flags.NUM_PROCESSES.value, flags.PROCESS_ID.value)
    jax_settings.configure(compilation_cache)
    memory.return_after_compilations()
    watchdog.start(*processes.process())
    if not mode.several_processes:
        distributed.refuse_several(flags.MODE.value)


def _print_first_line(name: str) -> None:
    """Says what runs where, before the imports and the data, which can take long."""
    import jax

    from cpnet_jax.runtime import processes

    if processes.is_main_process():
        count = jax.process_count()
        shared = f" of {count} processes" if count > 1 else ""
        platform = jax.devices()[0].platform.upper()
        print(f"{name}: --mode={flags.MODE.value} on {jax.device_count()} {platform} device(s){shared}", flush=True)
