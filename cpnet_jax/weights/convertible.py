"""Checks whether a network exists in mmsegmentation or in the authors' code on it."""

from collections.abc import Sequence

import ml_collections

from cpnet_jax.errors import UserError
from cpnet_jax.models.resnet import ResNet

# The values of the authors' network. The tensors do not show the last one.
RELEASE_VALUES = {
    "context": "none",
    "prior": "positions",
    "aggregation": True,
    "prior_contexts": "both",
    "divide_by_n": True,
}
HEADS = ("none", "psp", "aspp", "non_local")


def check_convertible(model: ml_collections.ConfigDict) -> None:
    """Raises UserError if config.model describes a network that PyTorch code does not have."""
    if model.backbone != "resnet":
        raise UserError(f"config.model.backbone is {model.backbone!r}: only networks with 'resnet' can be converted")
    if model.context_prior:
        different = [field for field, value in RELEASE_VALUES.items() if model[field] != value]
        allowed = {field: repr(value) for field, value in RELEASE_VALUES.items()}
    else:
        different = ["context"] * (model.context not in HEADS)
        allowed = {"context": f"one of {list(HEADS)}"}
    if different:
        field = different[0]
        prior = "with" if model.context_prior else "without"
        raise UserError(
            f"config.model.{field} is {model[field]!r}: a network {prior} context prior can be converted only if it is "
            f"{allowed[field]}, since PyTorch code has no other"
        )


def notes(model: ml_collections.ConfigDict, name: str) -> list[str]:
    """What to set in mmsegmentation for the file `name`: what its tensors do not show of the network."""
    where = "of its config on mmsegmentation"
    head = None if model.context_prior else model.context
    found = []
    if model.multi_grid:
        dilations = _multi_grid_dilations(model.multi_grid)
        found.append(f"multi_grid={dilations} in the backbone {where}, which takes dilations")
    if head == "aspp":
        found.append(f"dilations={(1, *model.aspp_dilations)} in the decode_head {where}")
    if head == "psp":
        found.append(f"pool_scales={tuple(model.pool_sizes)} in the decode_head {where}")
    return [f"{name} needs {note}" for note in found]


def _multi_grid_dilations(multi_grid: Sequence[int]) -> tuple[int, ...]:
    half, full = max(ResNet.dilations[-1] // 2, 1), ResNet.dilations[-1]
    return tuple(factor * (full if block else half) for block, factor in enumerate(multi_grid))
