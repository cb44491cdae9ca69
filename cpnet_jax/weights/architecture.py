"""Recognises the architecture of a network by its tensors' names, for error messages.

Most files that do not fit hold another kind of network, so that a list of single tensors would explain little.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cpnet_jax.models.resnet import STAGE_SIZES

# Names in the detectors of torchvision and mmdetection.
DETECTOR_KEY = re.compile(r"(module\.)?(rpn|rpn_head|roi_heads?|bbox_head|neck|mask_head|backbone\.(body|fpn))\.")
BLOCKS_BY_DEPTH = {**STAGE_SIZES, 152: (3, 8, 36, 3)}
SMALLEST_WITH_BOTTLENECKS = 50


@dataclass(frozen=True)
class ResNetKind:
    """Architecture of a ResNet.

    Attributes:
      blocks: number of blocks in each stage.
      bottlenecks: whether a block has three convolutions instead of two.
      stem: "deep" or "classic".
    """

    blocks: tuple[int, ...]
    bottlenecks: bool
    stem: str

    @property
    def depth(self) -> int | None:
        """Number of layers as in "ResNet-50"; None if these blocks are not one of the usual ResNets."""
        for depth, sizes in BLOCKS_BY_DEPTH.items():
            if sizes == self.blocks and (depth >= SMALLEST_WITH_BOTTLENECKS) == self.bottlenecks:
                return depth
        return None

    def __str__(self) -> str:
        kind = f"a ResNet-{self.depth}" if self.depth else f"a ResNet of {self.blocks} blocks"
        return f"{kind} with the {self.stem} stem"


def resnet_kind(keys: Iterable[str]) -> ResNetKind | None:
    """Architecture of the ResNet that has tensors of these names; None if they are not a ResNet's."""
    names = set(keys)
    found = {match for name in names if (match := re.fullmatch(r"layer(\d+)\.(\d+)\.conv1\.weight", name))}
    if not found or "layer1.0.bn1.weight" not in names:
        return None
    stages = sorted({int(match[1]) for match in found})
    return ResNetKind(
        blocks=tuple(sum(int(match[1]) == stage for match in found) for stage in stages),
        bottlenecks="layer1.0.conv3.weight" in names,
        stem="classic" if "conv1.weight" in names else "deep",
    )


def describe_network(keys: Iterable[str]) -> str:
    """Describes a network by its tensors' names: "a ResNet-50 with the deep stem", "a detection model"."""
    names = sorted(keys)
    if any(DETECTOR_KEY.match(name) for name in names):
        return f"a detection model ({next(filter(DETECTOR_KEY.match, names))} is one of its tensors)"
    if any(name.startswith("decode_head.") for name in names):
        return "a whole segmentation network"
    if kind := resnet_kind(names):
        return str(kind)
    return f"another network (its tensors are {', '.join(names[:3])} and so on)" if names else "no tensors"
