"""Flags in, one sentence out where they are wrong."""

import difflib
import re
import runpy
from collections.abc import Collection, Iterator
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from cpnet_jax.errors import UserError

HELP = {"--help", "--helpfull", "--helpshort", "-h", "-?"}


def parse(
    argv: list[str], *, without_config: Collection[str] = (), flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parses absl's flags; returns what is left of argv.

    Args:
      without_config: modes for which --config may be missing.
      flag_values: that hold them.

    Raises:
      UserError: on an unknown flag or field, a value of the wrong type, or a config file that cannot be loaded.
    """
    if not HELP & set(argv):
        path = _value(argv, "config")
        if path is not None:
            _check_fields(argv, _load(path))
        else:
            _check_nothing_asks_for_a_config(argv, without_config)
    try:
        return flag_values(argv)
    except flags.Error as error:
        # absl gives the parser's arguments where they are its words, as a tuple.
        said = re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "it must be true or false", str(error))
        raise UserError(" ".join(said.split())) from error


def _value(argv: list[str], flag: str) -> str | None:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in (f"--{flag}", f"-{flag}"):
            return following
        if match := re.match(rf"--?{flag}=(.*)", argument):
            return match[1]
    return None


def _check_nothing_asks_for_a_config(argv: list[str], without_config: Collection[str]) -> None:
    if _value(argv, "mode") not in without_config:
        raise UserError("--config is missing: name an experiment, --config=configs/quickstart.py for instance")
    for argument in argv:
        if match := re.match(r"--?(config\.[^=]+)", argument):
            raise UserError(f"{match[1]} is given without --config: name the experiment whose field it is, too")


def _load(value: str) -> ConfigDict:
    """The config as its file gives it: absl would report a mistake in the file as one in the flag.

    What follows a colon is for the file's get_config, as ml_collections has it.
    """
    path, *argument = value.split(":", 1)
    if not Path(path).is_file():
        known = ", ".join(map(str, sorted(Path("configs").glob("*.py")))) or "the files in configs/"
        raise UserError(f"--config={path} is no file: take one of {known}")
    try:
        config = runpy.run_path(path)["get_config"](*argument)
    except Exception as error:
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returns a {type(config).__name__}; it must return a ConfigDict")
    return config


def _check_fields(argv: list[str], config: ConfigDict) -> None:
    """Raises UserError on the first --config.FIELD that the config does not have, or that is given again."""
    fields, seen = list(_fields(config)), set()
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match and match[1] in seen:
            # The flags of tuples would append the second value to the first.
            raise UserError(f"config.{match[1]} is given twice: give it once")
        seen.add(match and match[1])
        if match and match[1] not in fields:
            close = difflib.get_close_matches(match[1], fields, n=1)
            hint = f"did you mean config.{close[0]}?" if close else "configs/default.py lists all there are"
            raise UserError(f"config.{match[1]} does not exist: {hint}")


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
