"""Refuses ResNet-18 and -34 networks that mmsegmentation would compute differently.

A dilated stage dilates the one 3x3 convolution of every bottleneck, here and in mmsegmentation. A basic block has two
3x3 convolutions: mmsegmentation (0.x and 1.x) dilates only the first, this package dilates both. Only the latter
reproduces the features of the classification network at a higher resolution. A whole CPNet with a ResNet-18 or -34
therefore gives other results in the other program. ImageNet ResNets are unaffected, since they are not dilated.
"""

from cpnet_jax.errors import UserError
from cpnet_jax.weights import layouts
from cpnet_jax.weights.architecture import ResNetKind, resnet_kind
from cpnet_jax.weights.convert import Tensors
from cpnet_jax.weights.load import PyTorchWeights


def check_dilation(weights: PyTorchWeights) -> None:
    """Raises UserError if a whole network was trained elsewhere and has basic blocks."""
    kind = _backbone_kind(weights.tensors)
    if kind and not kind.bottlenecks and not weights.trained_here:
        raise UserError(
            f"{weights.location} holds a CPNet with {kind}, which would give other results here: mmsegmentation does "
            "not dilate the second convolutions of its blocks. Use a network with a ResNet-50 or -101"
        )


def dilation_warning(tensors: Tensors, name: str) -> str | None:
    """Warning to print when these tensors are written for mmsegmentation; None if they need none."""
    kind = _backbone_kind(tensors)
    if kind and not kind.bottlenecks:
        return (
            f"{name} will give other results in mmsegmentation, which does not dilate the second convolutions in the "
            f"blocks of a ResNet-{kind.depth}; only with ResNet-50 and -101 the networks are the same"
        )
    return None


def _backbone_kind(tensors: Tensors) -> ResNetKind | None:
    prefix = layouts.BACKBONE
    return resnet_kind(key.removeprefix(prefix) for key in tensors if key.startswith(prefix))
