"""Translates the fields of config.eval, from a config, checkpoint or exported file, into arguments."""

from collections.abc import Mapping
from typing import Any, get_args

from jax.sharding import Mesh

from cpnet_jax.errors import UserError
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.predictor import Predictor, usual_batch_size
from cpnet_jax.inference.protocol import Overlap, Protocol
from cpnet_jax.runtime import memory


def make_predictor(
    model: TrainedModel, mesh: Mesh, settings: Mapping[str, Any], multi_scale: bool | None = None
) -> Predictor:
    """Makes a predictor with the fields of config.eval; unset ones have their defaults.

    Args:
      multi_scale: see `make_protocol`.

    Raises:
      UserError: if the model cannot predict with these settings, or a batch is larger than this machine's memory.
    """
    check_batch_fits(settings, model.crop_size, mesh)
    return Predictor(
        model,
        mesh,
        protocol=make_protocol(settings, multi_scale),
        windows=settings.get("windows", True),
        **_limits(settings),
    )


def make_protocol(settings: Mapping[str, Any], multi_scale: bool | None = None) -> Protocol:
    """Makes the protocol of config.eval.

    Args:
      settings: the fields of config.eval.
      multi_scale: whether to use the settings' scales and flip; None: as the settings say.

    Raises:
      UserError: if scales are wanted, but the settings have none; or if this version does not know the overlap.
    """
    overlap = settings.get("overlap", Protocol.overlap)
    if overlap not in get_args(Overlap):
        raise UserError(
            f"the network's file says eval.overlap={overlap!r}, and this program knows {list(get_args(Overlap))}: "
            "update cpnet_jax"
        )
    if not (settings.get("multi_scale", False) if multi_scale is None else multi_scale):
        return Protocol(overlap=overlap)
    if "scales" not in settings:
        raise UserError(
            "--multi_scale needs scales, and the network's file has none: name a config with scales, for example "
            "--config=configs/ade20k.py"
        )
    return Protocol(tuple(settings["scales"]), settings["flip"], overlap)


def _limits(settings: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of `Predictor` that bound its memory; unset ones are left out."""
    found = {"batch_size": settings.get("batch_size"), "canvas_bytes": settings.get("canvas_mib", 0) * 2**20}
    return {name: value for name, value in found.items() if value}


def check_batch_fits(settings: Mapping[str, Any], crop_size: tuple[int, int], mesh: Mesh) -> None:
    """Raises UserError if a batch of windows is larger than this machine's memory."""
    value, (height, width) = settings.get("batch_size", 0), crop_size
    memory.check_fits("eval.batch_size", value, 3 * windows_at_once(value, mesh) * height * width)


def windows_at_once(batch_size: int, mesh: Mesh) -> int:
    """Windows in a batch of all devices of the mesh, for a value of config.eval.batch_size."""
    return (batch_size or usual_batch_size(mesh)) * mesh.size
