"""The text of --help, generated from the table of modes, the flags and the exit statuses."""

import textwrap
from collections.abc import Iterable

from absl import flags as absl_flags

from cpnet_jax.config import experiments
from cpnet_jax.modes import MODES, Mode, flags
from cpnet_jax.runtime.exit_status import MEANINGS

HELP_FLAGS = {"--help", "-help", "-h", "-?", "--helpfull", "--helpshort"}
WIDTH = 100
HEAD = """\
Trains, evaluates and uses a CPNet (Context Prior for Scene Segmentation).

    python main.py --config=configs/NAME.py [--workdir=DIR] [--mode=MODE] [--config.any.field=value ...]
    python main.py --workdir=DIR [--mode=MODE] [--config.any.field=value ...]

Without --config, the config is that of the run in DIR. Running the same command again resumes.
An installed package has the same command as `cpnet`.
SIGTERM, or Ctrl-C once: save and stop. Ctrl-C twice: stop at once."""


def usage() -> str:
    """The whole help text."""
    parts = [HEAD, "Modes, by --mode (default: train):", *(_mode(name, mode) for name, mode in MODES.items())]
    parts += ["Flags of every mode:\n" + _flags(flags.OF_EVERY_MODE)]
    parts += [f"Config fields, --config.FIELD=VALUE, with their defaults: {experiments.find('default')}"]
    shared = ", ".join(name for name, mode in MODES.items() if mode.several_processes)
    parts += [f"Flags of a run in several processes ({shared}):\n" + _flags(flags.OF_SEVERAL_PROCESSES)]
    statuses = "\n".join(_entry(str(status), meaning) for status, meaning in MEANINGS.items())
    return "\n\n".join([*parts, f"Exit status:\n{statuses}"])


def _mode(name: str, mode: Mode) -> str:
    lines = [_entry(name, f"{mode.help} Needs --config, or a run in --workdir." if mode.needs_config else mode.help)]
    return "\n".join([*lines, _flags(mode.flags)] if mode.flags else lines)


def _flags(holders: Iterable[absl_flags.FlagHolder]) -> str:
    # absl adds a sentence to the help of flags that may be repeated.
    texts = ((flag.name, absl_flags.FLAGS[flag.name].help.partition(";\n")[0]) for flag in holders)
    return "\n".join(_entry(f"  --{name}", text) for name, text in texts)


def _entry(name: str, text: str) -> str:
    """A name in one column, and its text, wrapped, in the next."""
    return textwrap.fill(text, WIDTH, initial_indent=f"  {name:<20} ", subsequent_indent=" " * 23)
