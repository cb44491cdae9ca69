"""Fields of the config that come from a trained network wherever one is used."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from cpnet_jax.config.same_run import as_dict, flat
from cpnet_jax.errors import UserError
from cpnet_jax.runtime.files import AnyPath

# Names, or beginnings of names.
FIELDS = ("model.", "data.crop_size", "data.mean", "data.std")


def check_given(
    given: Iterable[str], config: ConfigDict, network: Callable[[], Mapping[str, Any]], where: AnyPath
) -> None:
    """Checks that the command line asks for no other network than the trained one.

    Args:
      given: names of the fields that were set on the command line. Others than those of the network are not compared.
      config: holds their values.
      network: reads the fields of the trained network, with JSON's values; called only if one of them is given.
      where: its workdir or file.

    Raises:
      UserError: if a field of the network has another value than the network.
    """
    compared = [field for field in given if field.startswith(FIELDS)]
    if not compared:
        return
    ours, theirs = dict(flat(as_dict(config))), network()
    for field in compared:
        if ours[field] != theirs.get(field):
            raise UserError(
                f"config.{field} is {_shown(ours[field])}, but the network in {where} has {_shown(theirs.get(field))}: "
                "leave it out"
            )


def _shown(value: Any) -> str:
    """A value as it is written in a config, where JSON's lists are tuples."""
    return repr(tuple(value) if isinstance(value, list) else value)
