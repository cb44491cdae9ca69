"""Checks whether a network exists in mmsegmentation or in the authors' code on it."""

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


def multi_grid_note(model: ml_collections.ConfigDict, name: str) -> str | None:
    """What to set in mmsegmentation for the file `name` of a network with multi-grid dilations; None without them."""
    if not model.multi_grid:
        return None
    half, full = max(ResNet.dilations[-1] // 2, 1), ResNet.dilations[-1]
    dilations = tuple(factor * (full if block else half) for block, factor in enumerate(model.multi_grid))
    return f"{name} needs multi_grid={dilations} in the backbone of its config on mmsegmentation, which takes dilations"
