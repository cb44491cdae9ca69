"""Trains, evaluates, uses, exports or converts a CPNet, prepares or checks its data, plans a run on TPUs.

    python main.py --config=configs/NAME.py [--workdir=DIR] [--mode=train|eval|plan|prepare|check_data]
                   [--config.any.field=value ...]
    python main.py --mode=predict --workdir=DIR --images=FILES [--output=FOLDER]
    python main.py --mode=export --workdir=DIR [--output=FILE]
    python main.py --mode=convert --workdir=DIR [--output=FILE]
    python main.py --mode=convert --weights=FILE [--config=configs/NAME.py --workdir=DIR | --output=FILE]
    python main.py --mode=check_submission --submission=cityscapes|ade20k --archive=FILE

Running the same command again resumes. SIGTERM, or Ctrl-C once: save and stop; Ctrl-C twice: stop now.

Exit status: 0 done, 1 a defect of this program (with a traceback), 2 a mistake in the config, the data or the flags, or
a disk that takes no more, 3 a loss that is no longer finite, 4 a worker process of the input died, 69 or 134 another
process of the run is gone, 75 stopped when asked to, with everything saved: run it again, 130 (143) stopped at once by
Ctrl-C (SIGTERM).
"""

from functools import partial
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from cpnet_jax.config import command_line
from cpnet_jax.errors import UserError
from cpnet_jax.modes import flags as network_flags
from cpnet_jax.runtime import exit_status, files, watchdog
from cpnet_jax.runtime.signals import Stop

CONFIG = config_flags.DEFINE_config_file("config", help_string="File of the experiment: configs/NAME.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's files go; runs/NAME unless given.")
MODES = ["train", "eval", "predict", "export", "convert", "plan", "prepare", "check_data", "check_submission"]
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
# Those that find their config with the network; --config is for changing it.
WITHOUT_CONFIG = {"predict", "export", "convert", "check_submission"}
# Those that several processes share.
TOGETHER = {"train", "eval", "prepare"}


def main(stop: Stop, argv: list[str]) -> None:
    if argv[1:]:
        raise UserError(
            f"{argv[1]!r} is no flag: flags start with --, fields of the config with --config., and a pattern of files "
            "needs quotes"
        )
    config = CONFIG.value
    network_flags.check(MODE.value)
    workdir = WORKDIR.value and files.as_path(WORKDIR.value)
    if MODE.value not in WITHOUT_CONFIG:
        workdir = workdir or Path(f"runs/{config.name}")
    if MODE.value == "train":
        stop.expect_training()
    # Imported here, so that --help and mistakes in flags answer at once.
    from cpnet_jax import modes
    from cpnet_jax.runtime import distributed, jax_settings, processes

    if MODE.value != "plan":  # which needs no device
        distributed.start(**network_flags.processes())
        jax_settings.configure((config or default.get_config()).system.compilation_cache)
        watchdog.prepare(*processes.process())
        if MODE.value not in TOGETHER:
            distributed.refuse_several(MODE.value)
    modes.run(MODE.value, config, workdir, stop)


def run() -> None:
    logging.set_verbosity(logging.FATAL)  # what libraries log as an error they raise, too
    stop = Stop()
    stop.listen()
    parse = partial(command_line.parse, without_config=WITHOUT_CONFIG)
    exit_status.run(partial(app.run, partial(main, stop), flags_parser=parse))


if __name__ == "__main__":
    run()
