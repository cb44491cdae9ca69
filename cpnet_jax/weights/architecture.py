"""What a file holds, in words: most wrong files are whole networks of another kind, not a tensor here and there."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cpnet_jax.models.resnet import STAGE_SIZES

# Of torchvision's and mmdetection's detectors.
OF_DETECTORS = re.compile(r"(module\.)?(rpn|rpn_head|roi_heads?|bbox_head|neck|mask_head|backbone\.(body|fpn))\.")
NAMED = {**STAGE_SIZES, 152: (3, 8, 36, 3)}
SMALLEST_WITH_BOTTLENECKS = 50


@dataclass(frozen=True)
class ResNetKind:
    """Attributes:
    blocks: of each stage.
    bottlenecks: whether they have three convolutions.
    stem: "deep" or "classic".
    """

    blocks: tuple[int, ...]
    bottlenecks: bool
    stem: str

    @property
    def depth(self) -> int | None:
        """None: no customary one."""
        for depth, sizes in NAMED.items():
            if sizes == self.blocks and (depth >= SMALLEST_WITH_BOTTLENECKS) == self.bottlenecks:
                return depth
        return None

    def __str__(self) -> str:
        kind = f"a ResNet-{self.depth}" if self.depth else f"a ResNet of {self.blocks} blocks"
        return f"{kind} with the {self.stem} stem"


def resnet_kind(keys: Iterable[str]) -> ResNetKind | None:
    """Of the tensors that are named so; None: no ResNet."""
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


def in_words(keys: Iterable[str]) -> str:
    """As far as names tell: "a ResNet-50 with the deep stem", "a detection model"."""
    names = sorted(keys)
    if any(OF_DETECTORS.match(name) for name in names):
        return f"a detection model ({next(filter(OF_DETECTORS.match, names))} is one of its tensors)"
    if any(name.startswith("decode_head.") for name in names):
        return "a whole segmentation network"
    if kind := resnet_kind(names):
        return str(kind)
    return f"another network (its tensors are {', '.join(names[:3])} and so on)" if names else "no tensors"
