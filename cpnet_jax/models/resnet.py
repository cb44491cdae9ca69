"""Dilated ResNet-18/34/50/101 (the paper: output stride 8)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from cpnet_jax.models.forms import Forms, space_to_depth
from cpnet_jax.models.forms.folded_norm import FoldedConvBN
from cpnet_jax.models.forms.max_pool import max_pool
from cpnet_jax.models.forms.platforms import Size, fills_tiles
from cpnet_jax.models.layers import ConvBN

STAGE_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# (channels, kernel size, stride) of the convolutions before the max-pool.
STEMS = {"deep": ((32, 3, 2), (32, 3, 1), (64, 3, 1)), "classic": ((64, 7, 2),)}

Layer = Callable[..., nn.Module]  # a constructor, such as partial(ConvBN, dtype=jnp.bfloat16)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (ResNet-18/34).

    Attributes:
      channels: of both convolutions.
      stride: of the first convolution.
      dilations: of the first and of the second convolution.
      conv_bn: constructor of convolution + BatchNorm + ReLU.
      last_conv_bn: constructor of the last convolution + BatchNorm, without ReLU.
    """

    channels: int
    stride: int
    dilations: tuple[int, int]
    conv_bn: Layer
    last_conv_bn: Layer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h2 w2 cout"]:
        first, second = self.dilations
        y = self.conv_bn(self.channels, (3, 3), self.stride, first, name="conv1")(x, train=train)
        y = self.last_conv_bn(self.channels, dilation=second, name="conv2")(y, train=train)
        return nn.relu(_shortcut(x, y, self.stride, self.conv_bn, train) + y)


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution (ResNet-50/101); the stride sits on the 3x3 convolution.

    Its attributes are those of `BasicBlock`; the 3x3 convolution has the first of the two dilations.
    """

    channels: int
    stride: int
    dilations: tuple[int, int]
    conv_bn: Layer
    last_conv_bn: Layer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h2 w2 cout"]:
        y = self.conv_bn(self.channels, (1, 1), name="conv1")(x, train=train)
        y = self.conv_bn(self.channels, (3, 3), self.stride, self.dilations[0], name="conv2")(y, train=train)
        y = self.last_conv_bn(4 * self.channels, name="conv3")(y, train=train)
        return nn.relu(_shortcut(x, y, self.stride, self.conv_bn, train) + y)


def _shortcut(x: Array, y: Array, stride: int, conv_bn: Layer, train: bool) -> Array:
    """The identity, or a strided 1x1 projection if the branch changes the shape."""
    if x.shape == y.shape:
        return x
    return conv_bn(y.shape[-1], (1, 1), stride, relu=False, name="downsample")(x, train=train)


class ResNet(nn.Module):
    """A ResNet whose last stages have dilation instead of stride.

    The first block of a dilated stage keeps half its stage's dilation. Features at output stride 8, subsampled, then
    equal those of the ordinary network with the same weights.

    Attributes:
      depth: 18, 34, 50 or 101.
      stem: "deep" (3x3/2 32, 3x3 32, 3x3 64: "v1c", what the release uses) or "classic" (7x7/2 64).
      strides, dilations: per stage. The defaults have output stride 8; (1, 2, 2, 2) and (1, 1, 1, 1) are the
        classification network's.
      multi_grid: factors on the dilation of the last stage's blocks, one for each; () for 1 throughout. The first
        block's dilation is still halved, as in TorchSeg, the authors' framework: (1, 2, 4) makes 2, 8 and 16.
        DeepLabV3 does not halve: 4, 8 and 16.
      forms: how stem and bottlenecks are computed, and what is recomputed in the backward pass.
      dtype: of the activations.

    Raises:
      ValueError: on an unknown depth or stem, or a `multi_grid` of another length than the last stage.
    """

    depth: int = 50
    stem: Literal["deep", "classic"] = "deep"
    strides: tuple[int, ...] = (1, 2, 1, 1)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    multi_grid: tuple[int, ...] = ()
    forms: Forms = Forms()
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b h4 w4 c4"], Float[Array, "b h5 w5 c5"]]:
        """Features of the last two stages (res4, res5) of normalised images."""
        self._check()
        x = self._stem(images, train)
        block = self._block(batch=images.shape[0])
        features = []
        for stage, blocks in enumerate(STAGE_SIZES[self.depth]):
            for index in range(blocks):
                stride = self.strides[stage] if index == 0 else 1
                residual = block(64 * 2**stage, stride, self._dilations(stage, index), name=f"layer{stage + 1}_{index}")
                x = _apply(residual, x, train, remat=self.forms.remat)
            features.append(x)
        return features[-2], features[-1]

    def _stem(self, x: Array, train: bool) -> Float[Array, "b h2 w2 c"]:
        """The convolutions before the first stage, and the max-pool."""
        conv_bn, pool = ConvBN, max_pool
        if self.forms.space_to_depth_stem and x.shape[1] % 4 == x.shape[2] % 4 == 0:
            conv_bn, pool = space_to_depth.SpaceToDepthConvBN, space_to_depth.max_pool
            # Cast first, so that there are fewer bytes to rearrange.
            x = space_to_depth.space_to_depth(x.astype(self.dtype or x.dtype), 4)
        for place, (channels, size, stride) in enumerate(STEMS[self.stem], start=1):
            x = conv_bn(channels, (size, size), stride, dtype=self.dtype, name=f"stem{place}")(x, train=train)
        return pool(x)

    def _block(self, batch: Size) -> Layer:
        """Constructor of the residual blocks for a batch of this many images."""
        # The last BatchNorm of a branch starts at zero, so every block starts as the identity.
        last = {"scale_init": nn.initializers.zeros, "dtype": self.dtype}
        conv_bn = partial(ConvBN, dtype=self.dtype)
        if self.depth < 50:
            return partial(
                BasicBlock, conv_bn=conv_bn, last_conv_bn=partial(ConvBN, kernel_size=(3, 3), relu=False, **last)
            )
        # With fewer images folding is slower, see docs/performance.md.
        if self.forms.folded_norm and fills_tiles(batch):
            return partial(Bottleneck, conv_bn=conv_bn, last_conv_bn=partial(FoldedConvBN, **last))
        return partial(
            Bottleneck, conv_bn=conv_bn, last_conv_bn=partial(ConvBN, kernel_size=(1, 1), relu=False, **last)
        )

    def _dilations(self, stage: int, index: int) -> tuple[int, int]:
        """Dilations in a block: of the convolution that may carry the stride, and of a later 3x3 convolution."""
        last_stage = stage == len(STAGE_SIZES[self.depth]) - 1
        factor = self.multi_grid[index] if last_stage and self.multi_grid else 1
        dilation = self.dilations[stage]
        first = max(dilation // 2, 1) if index == 0 else dilation
        return factor * first, factor * dilation

    def _check(self) -> None:
        if self.depth not in STAGE_SIZES:
            raise ValueError(f"depth is {self.depth}: it must be one of {sorted(STAGE_SIZES)}")
        if self.stem not in STEMS:
            raise ValueError(f"stem is {self.stem!r}: it must be one of {list(STEMS)}")
        blocks = STAGE_SIZES[self.depth][-1]
        if self.multi_grid and (len(self.multi_grid) != blocks or min(self.multi_grid) < 1):
            raise ValueError(
                f"multi_grid is {tuple(self.multi_grid)}: it must be empty or hold a positive factor for each of the "
                f"{blocks} blocks in the last stage of a ResNet-{self.depth}"
            )


def _apply(block: nn.Module, x: Array, train: bool, *, remat: bool) -> Array:
    """block(x); with `remat`, its intermediate results are recomputed in the backward pass instead of stored."""
    if not remat:
        return block(x, train=train)
    return nn.remat(lambda block, x: block(x, train=train))(block, x)
