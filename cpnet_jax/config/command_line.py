"""Parses flags and loads the config file; a mistake in either raises UserError with one sentence."""

import ast
import difflib
import inspect
import re
import runpy
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from cpnet_jax.config import experiments, recorded, renamed, tuple_flags
from cpnet_jax.errors import UserError, quoted, shortened


def parse(
    argv: list[str], *, needs_config: Mapping[str, bool] | None = None, flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parses absl's flags; returns the arguments that are not flags.

    Args:
      needs_config: mode -> whether it needs a config; by default any mode is accepted, and it does.
      flag_values: the flags to set.

    Raises:
      UserError: on an unknown flag or field, a value of the wrong type, or a config file that cannot be loaded.
    """
    _check_given_once(argv)
    mode = _value(argv, "mode")
    if mode is not None and needs_config and mode not in needs_config:
        raise UserError(f"--mode={mode} does not exist: choose one of {', '.join(needs_config)}")
    value = _value(argv, "config")
    if value is not None:
        if "://" in value:
            raise UserError(f"--config={value} is in an object store: copy it to a local disk first")
        path, *argument = value.split(":", 1)  # behind a colon: the argument of get_config, as in ml_collections
        file = _find(path)
        _check_fields(argv, _load(file, *argument))
        argv = _replace(argv, "config", ":".join([str(file), *argument]))
    else:
        argv = _with_recorded_config(argv, needs_config is None or needs_config.get(mode or "train", True))
    try:
        return flag_values(argv)
    except flags.Error as error:
        # absl puts a tuple of the parser's arguments into this message.
        message = re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "it must be true or false", str(error))
        message = re.sub(r"Exceeds the limit .*", "it has thousands of digits", message, flags=re.DOTALL)
        raise UserError(shortened(" ".join(message.split()))) from error
    except (RecursionError, MemoryError) as error:  # of Python's parser
        raise UserError(f"{_deepest(argv)} has too many levels of brackets or signs: correct it") from error


def _deepest(argv: list[str]) -> str:
    """The flag whose value has too many levels for Python's parser."""
    for argument in argv:
        name, _, value = argument.partition("=")
        try:
            ast.parse(value, mode="eval")
        except SyntaxError:
            continue
        except (RecursionError, MemoryError):
            return name.lstrip("-")
    return "a flag"


def _check_given_once(argv: list[str]) -> None:
    for flag in ("config", "workdir", "mode"):
        if sum(bool(re.fullmatch(rf"--?{flag}(=.*)?", argument, re.DOTALL)) for argument in argv) > 1:
            raise UserError(f"--{flag} is given twice: give it once")
    if any(re.match(r"--?flagfile\b", argument) for argument in argv):
        raise UserError("--flagfile is not supported: put the fields into a config file, and the flags here")


def _value(argv: list[str], flag: str) -> str | None:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument in (f"--{flag}", f"-{flag}"):
            return following
        if match := re.match(rf"--?{flag}=(.*)", argument, re.DOTALL):
            return match[1]
    return None


def _replace(argv: list[str], flag: str, value: str) -> list[str]:
    """argv with another value of a flag that it has."""
    for index, argument in enumerate(argv):
        if argument in (f"--{flag}", f"-{flag}"):
            return [*argv[:index], f"--{flag}={value}", *argv[index + 2 :]]
        if re.match(rf"--?{flag}=", argument):
            return [*argv[:index], f"--{flag}={value}", *argv[index + 1 :]]
    return argv


def _with_recorded_config(argv: list[str], needed: bool) -> list[str]:
    """argv with the config of the run in --workdir, if the mode needs a config or a field is set."""
    fields = [match[1] for argument in argv if (match := re.match(r"--?(config\.[^=]+)", argument))]
    if not needed and not fields:
        return argv
    missing = f"{fields[0]} is given without --config" if fields else "--config is missing"
    workdir = _value(argv, "workdir")
    if not workdir or not recorded.file(workdir).is_file():
        reason = f", and {workdir} holds no {recorded.NAME}" if workdir else ""
        run = "" if _value(argv, "model") else ", or the folder of a run by --workdir"
        raise UserError(f"{missing}{reason}: name an experiment, for example --config=configs/quickstart.py{run}")
    module = Path(recorded.__file__)
    _check_fields(argv, _load(module, workdir))
    return [argv[0], f"--config={module}:{workdir}", *argv[1:]]


def _find(name: str) -> Path:
    if path := experiments.find(name):
        return path
    raise UserError(
        f"--config={name} does not exist: give the path of a file, or one of {', '.join(experiments.names())}"
    )


def _load(path: Path, *argument: str) -> ConfigDict:
    """Loads the config file. Done here because absl would report a mistake in the file as one in the flag."""
    experiments.make_importable()
    try:
        module = runpy.run_path(str(path))
        if not callable(module.get("get_config")):
            raise UserError(f"{path} defines no function get_config: see {experiments.find('quickstart')}")
        _check_argument(path, module["get_config"], *argument)
        config = module["get_config"](*argument)
    except UserError:
        raise
    except AttributeError as error:
        raise UserError(_wrong_field(path, error)) from error
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returns a {type(config).__name__}; it must return a ConfigDict")
    _check_types(path, config, experiments.default())
    return config


def _check_argument(path: Path, get_config: Callable[..., object], *argument: str) -> None:
    """Raises UserError if get_config cannot be called with what is behind the colon of --config."""
    signature, name = inspect.signature(get_config), shortened(":".join([str(path), *argument]))
    try:
        signature.bind(*argument)
    except TypeError as error:
        if argument and not signature.parameters:
            raise UserError(
                f"--config={name}: get_config of this file takes no argument, so give --config={path}"
            ) from error
        if not argument and len(signature.parameters) == 1:
            raise UserError(
                f"--config={name}: get_config of this file needs an argument: append a colon and its value"
            ) from error
        raise UserError(f"{path}: get_config{signature} must have at most one parameter") from error


def _check_types(path: Path, config: ConfigDict, default: ConfigDict, section: str = "config") -> None:
    """Raises UserError if a field of the default config is missing, or has a value of another type.

    ml_collections itself accepts None for every field.
    """
    for name, value in default.items():
        field = f"{section}.{name}"
        if name not in config:
            raise UserError(f"{path}: {field} is missing: begin with the config of {experiments.find('default')}")
        given = config[name]
        try:
            if given is None and value is not None:
                raise TypeError("None")
            default[name] = given
        except (TypeError, ValueError, OverflowError) as error:
            like = "a ConfigDict" if isinstance(value, ConfigDict) else f"a value like {quoted(value)}"
            raise UserError(f"{path}: {field} is {quoted(given)}: give {like}") from error
        if isinstance(value, ConfigDict):
            _check_types(path, given, value, field)


def _wrong_field(path: Path, error: AttributeError) -> str:
    """The message for a file that reads or sets a field which does not exist, perhaps by its old name."""
    match = re.search(r"Key \"(\w+)\"", str(error))
    if not match and not isinstance(error.obj, ConfigDict):
        return f"{path} cannot be loaded: AttributeError: {error}"
    name = match[1] if match else error.name
    message = f"{path} cannot be loaded: the config has no field {name!r}"
    for field in (*renamed.MOVED, *renamed.DELETED):
        if (name in (field.rpartition(".")[2], field.partition(".")[0]) and "." in field) or name == field:
            return f"{message}. If config.{field} is meant: {renamed.advice(field)}"
    return f"{message}; {experiments.find('default')} lists every field"


def _check_fields(argv: list[str], config: ConfigDict) -> None:
    """Raises UserError on the first --config.FIELD that does not exist, is given twice, or needs a tuple."""
    fields, seen = set(_fields(config)), set()
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            continue
        field, text = match.groups()
        if field in seen:
            # absl would append the second value of a tuple to the first.
            raise UserError(f"config.{field} is given twice: give it once")
        seen.add(field)
        if field not in fields:
            raise UserError(f"config.{field} does not exist: {_hint(field, fields)}")
        if text is not None:
            tuple_flags.check(field, text)


def _hint(field: str, fields: Collection[str]) -> str:
    if advice := renamed.advice(field):
        return advice
    close = difflib.get_close_matches(field, fields, n=1)
    return f"did you mean config.{close[0]}?" if close else f"{experiments.find('default')} lists every field"


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields and sections."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
