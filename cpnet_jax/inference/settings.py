"""From the fields of config.eval, as a config, a checkpoint or an exported file holds them, to arguments."""

from collections.abc import Mapping
from typing import Any

from cpnet_jax.errors import UserError
from cpnet_jax.inference.protocol import Protocol


def make_protocol(settings: Mapping[str, Any], multi_scale: bool | None = None) -> Protocol:
    """Of several scales where `multi_scale` is true, or where it is None and the settings say so.

    Raises:
      UserError: where scales are wanted but not known.
    """
    overlap = settings.get("overlap", Protocol.overlap)
    if not (settings.get("multi_scale", False) if multi_scale is None else multi_scale):
        return Protocol(overlap=overlap)
    if "scales" not in settings:
        raise UserError(
            "--multi_scale: the network does not say at which scales: name a config that "
            "does, --config=configs/ade20k.py for instance"
        )
    return Protocol(tuple(settings["scales"]), settings["flip"], overlap)


def limits(settings: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of `Predictor` that bound its memory; those that are not set are left to it."""
    found = {"batch_size": settings.get("batch_size"), "canvas_bytes": settings.get("canvas_mib", 0) * 2**20}
    return {name: value for name, value in found.items() if value}
