"""Trains, evaluates, uses or exports a CPNet, prepares or checks its data, plans a run on TPUs.

    python main.py --config=configs/NAME.py [--workdir=DIR] [--mode=train|eval|plan|prepare|check_data]
                   [--config.any.field=value ...]
    python main.py --mode=predict --workdir=DIR --images=FILES [--output=FOLDER]
    python main.py --mode=export --workdir=DIR [--output=FILE]
    python main.py --mode=check_submission --submission=cityscapes|ade20k --archive=FILE

Running the same command again resumes. Exit status: 0 done, 1 a defect of this program (with a traceback), 2 a mistake
in the config, the data or the flags, 3 a loss that is no longer finite.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from cpnet_jax import command_line
from cpnet_jax import flags as network_flags
from cpnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", help_string="File of the experiment: configs/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's files go; runs/NAME unless given.")
MODES = ["train", "eval", "predict", "export", "plan", "prepare", "check_data", "check_submission"]
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
# Those that find their config with the network; --config is for changing it.
WITHOUT_CONFIG = {"predict", "export", "check_submission"}


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise UserError(
            f"{argv[1]!r} is no flag: flags start with --, fields of the config with --config., and a pattern of files "
            "needs quotes"
        )
    config = CONFIG.value
    workdir = WORKDIR.value and Path(WORKDIR.value).expanduser()
    if MODE.value not in WITHOUT_CONFIG:
        workdir = workdir or Path(f"runs/{config.name}")
    # Imported here, so that --help and mistakes in flags answer at once.
    if MODE.value == "plan":  # needs no device
        arguments = network_flags.plan_arguments()
        from cpnet_jax.plan.mode import plan

        return plan(config, **arguments)
    from cpnet_jax import runtime

    runtime.configure((config or default.get_config()).compilation_cache)
    if MODE.value == "train":
        from cpnet_jax.training.loop import train

        train(config, workdir)
    elif MODE.value == "eval":
        from cpnet_jax.evaluation.mode import evaluate_workdir

        evaluate_workdir(config, workdir)
    elif MODE.value == "predict":
        from cpnet_jax.inference.mode import predict

        predict(**network_flags.predict_arguments(config, workdir))
    elif MODE.value == "export":
        from cpnet_jax.inference.export.mode import export_workdir

        export_workdir(**network_flags.export_arguments(config, workdir))
    elif MODE.value == "check_submission":
        from cpnet_jax.evaluation.submissions.mode import check_submission

        check_submission(**network_flags.submission_arguments())
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
        app.run(main, flags_parser=partial(command_line.parse, without_config=WITHOUT_CONFIG))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    run()
