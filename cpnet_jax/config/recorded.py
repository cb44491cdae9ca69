"""The config of a run, read from its workdir: a config file whose argument is the workdir.

`command_line` names this file for --config if a workdir is given instead, so that flags set and check fields as usual.
Needs no JAX.
"""

import json
from typing import Any

from ml_collections import ConfigDict

from cpnet_jax.config import experiments, renamed
from cpnet_jax.config.same_run import ADDED_LATER, as_dict, flat
from cpnet_jax.errors import UserError, quoted, reason
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

NAME = "config.json"
# A workdir may come from a stranger, and the programs in this folder are executed.
NOT_TAKEN = "system.compilation_cache"


def file(workdir: str) -> AnyPath:
    """The file that holds the config of a workdir's run; it need not exist."""
    return files.as_path(workdir) / NAME


def get_config(workdir: str) -> ConfigDict:
    """The config of a workdir's run, in the fields of this version.

    Raises:
      UserError: if it cannot be read, or has fields or values that this version does not know.
    """
    path, config = file(workdir), experiments.default()
    known = dict(flat(as_dict(config)))
    for field, value in fields(workdir).items():
        if field not in known:
            raise UserError(
                f"{path} has config.{field[:100]}, which this version does not know: give --config, too, if your "
                "config file adds this field, or use the version of this program that wrote it"
            )
        if field != NOT_TAKEN:
            _set(config, field, _with_tuples(value), path)
    return config


def fields(workdir: str) -> dict[str, Any]:
    """The fields of a workdir's run by their dotted names, with this version's names and JSON's values.

    Raises:
      UserError: if they cannot be read.
    """
    return ADDED_LATER | renamed.present(_read(file(workdir)))


def _read(path: AnyPath) -> dict[str, Any]:
    """The recorded fields by their dotted names, without the description of the training data."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it must hold a JSON object")
        found.pop("trained_on", None)
        return dict(flat(found))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): give --config, too, with the values of this run"
        ) from error


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _set(config: ConfigDict, field: str, value: Any, path: AnyPath) -> None:
    *sections, name = field.split(".")
    for section in sections:
        config = config[section]
    default = config[name]
    try:
        if value is None and default is not None:
            raise TypeError("null")
        config[name] = value
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} has {quoted(value)} as config.{field}: correct it to a value like {quoted(default)}, or give "
            "--config, too, with the values of this run"
        ) from error
