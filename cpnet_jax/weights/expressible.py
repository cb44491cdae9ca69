"""Networks that mmsegmentation, and the authors' code on it, do not have."""

import ml_collections

from cpnet_jax.errors import UserError
from cpnet_jax.models.resnet import ResNet

# The only values with which a network with the context prior is the authors'. Tensors do not tell the last one.
OF_THE_RELEASE = {"context": "none", "aggregation": True, "prior_contexts": "both", "divide_by_n": True}
HEADS = ("none", "psp", "aspp", "non_local")


def check_expressible(model: ml_collections.ConfigDict) -> None:
    """Raises UserError where config.model describes a network that cannot be converted, either way."""
    if model.context_prior:
        different = [field for field, value in OF_THE_RELEASE.items() if model[field] != value]
        allowed = {field: repr(value) for field, value in OF_THE_RELEASE.items()}
    else:
        different = ["context"] * (model.context not in HEADS)
        allowed = {"context": f"one of {list(HEADS)}"}
    if different:
        field = different[0]
        prior = "with" if model.context_prior else "without"
        raise UserError(
            f"config.model.{field} is {model[field]!r}, and no network {prior} context prior is so in PyTorch: only "
            f"those where it is {allowed[field]} can be converted"
        )


def note(model: ml_collections.ConfigDict, name: str) -> str | None:
    """What to say of a network that leaves for mmsegmentation; None: nothing."""
    if not model.multi_grid:
        return None
    half, full = max(ResNet.dilations[-1] // 2, 1), ResNet.dilations[-1]
    dilations = tuple(factor * (full if block else half) for block, factor in enumerate(model.multi_grid))
    return f"{name} needs multi_grid={dilations} in the backbone of its config on mmsegmentation, which takes dilations"
