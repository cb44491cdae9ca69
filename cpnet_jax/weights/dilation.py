"""Where the same weights are not the same network.

A dilated stage dilates the one 3x3 convolution of every bottleneck, here and on mmsegmentation. Of the two in a basic
block, mmsegmentation (0.x and 1.x) dilates the first only. Here it is both, which alone gives the features of the
classification network at a higher resolution. So a whole CPNet with a ResNet-18 or -34 that was trained there would
answer differently here, and the other way round; ImageNet's ResNets, trained without dilation, are not concerned.
"""

from cpnet_jax.errors import UserError
from cpnet_jax.weights import layouts
from cpnet_jax.weights.architecture import ResNetKind, resnet_kind
from cpnet_jax.weights.convert import Tensors
from cpnet_jax.weights.load import Weights


def check_dilation(weights: Weights) -> None:
    """Raises UserError where a whole network from elsewhere has basic blocks."""
    kind = _kind(weights.tensors)
    if kind and not kind.bottlenecks and not weights.trained_here:
        raise UserError(
            f"{weights.source} holds a CPNet with {kind}, and mmsegmentation leaves the second convolutions of its "
            "blocks undilated, so that it would answer differently here: take one with a ResNet-50 or -101"
        )


def warning(tensors: Tensors, name: str) -> str | None:
    """What to say of a network that leaves for mmsegmentation; None: nothing."""
    kind = _kind(tensors)
    if kind and not kind.bottlenecks:
        return (
            f"{name} will answer differently on mmsegmentation, which leaves the second convolutions in the blocks of "
            f"a ResNet-{kind.depth} undilated; only with ResNet-50 and -101 the networks are the same"
        )
    return None


def _kind(tensors: Tensors) -> ResNetKind | None:
    prefix = layouts.BACKBONE
    return resnet_kind(key.removeprefix(prefix) for key in tensors if key.startswith(prefix))
