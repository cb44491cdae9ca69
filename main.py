"""Trains, evaluates or exports a CPNet, prepares or checks its data.

    python main.py --config=configs/NAME.py [--workdir=DIR] [--mode=train|eval|prepare|check_data]
                   [--config.any.field=value ...]
    python main.py --mode=export --workdir=DIR [--output=FILE]

Running the same command again resumes. Exit status: 0 done, 1 a defect of this program (with a traceback), 2 a mistake
in the config, the data or the flags, 3 a loss that is no longer finite.
"""

import os
import signal
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cpnet_jax import command_line
from cpnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", help_string="File of the experiment: configs/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's files go; runs/NAME unless given.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "export", "prepare", "check_data"], "What to do.")
OUTPUT = flags.DEFINE_string("output", None, "The file that --mode=export writes; WORKDIR/NAME.cpnet unless given.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is no flag: flags start with --, fields of the config with --config.")
    config = CONFIG.value
    if not (config or WORKDIR.value):
        raise UserError(f"--workdir is missing: name the run to {MODE.value}, --workdir=runs/quickstart for instance")
    workdir = Path(WORKDIR.value or f"runs/{config.name}").expanduser()
    # Imported here, so that --help and mistakes in flags answer at once.
    from cpnet_jax import runtime

    runtime.configure(config.compilation_cache if config else "")
    if MODE.value == "train":
        from cpnet_jax.training.loop import train

        train(config, workdir)
    elif MODE.value == "eval":
        from cpnet_jax.evaluation.mode import evaluate_workdir

        evaluate_workdir(config, workdir)
    elif MODE.value == "export":
        from cpnet_jax.inference.export.mode import export_workdir

        output = Path(OUTPUT.value).expanduser() if OUTPUT.value else None
        export_workdir(workdir, output, config.eval.checkpoint if config else "latest")
    elif MODE.value == "prepare":
        from cpnet_jax.data.modes import prepare

        prepare(config)
    else:
        from cpnet_jax.data.modes import check_data

        check_data(config, workdir)


def run() -> None:
    """Tells a user's mistake in one sentence, lets our own go through with a traceback."""
    logging.set_verbosity(logging.ERROR)
    try:
        app.run(main, flags_parser=command_line.parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    run()
