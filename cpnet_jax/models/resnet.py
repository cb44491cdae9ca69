"""Dilated ResNet-18/34/50/101 (the paper: output stride 8)."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from cpnet_jax.models.forms import space_to_depth
from cpnet_jax.models.forms.folded_norm import FoldedConvBN
from cpnet_jax.models.forms.max_pool import max_pool
from cpnet_jax.models.forms.platforms import fills_tiles
from cpnet_jax.models.layers import ConvBN, call
from cpnet_jax.models.sub_images import rearrange

STAGE_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# (channels, kernel size, stride) of the convolutions before the max-pool.
STEMS = {"deep": ((32, 3, 2), (32, 3, 1), (64, 3, 1)), "classic": ((64, 7, 2),)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18/34). `first_dilation` is the dilation of the one that may carry the stride."""

    channels: int
    stride: int
    first_dilation: int
    dilation: int
    dtype: Any = None
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h2 w2 cout"]:
        y = ConvBN(self.channels, (3, 3), self.stride, self.first_dilation, dtype=self.dtype, name="conv1")(
            x, train=train
        )
        y = ConvBN(
            self.channels,
            (3, 3),
            dilation=self.dilation,
            relu=False,
            scale_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="conv2",
        )(y, train=train)
        return nn.relu(_shortcut(x, y, self.stride, self.dtype, train) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50/101); the stride sits on the 3x3 convolution. `folded`: see `ResNet.norm_impl`."""

    channels: int
    stride: int
    first_dilation: int
    dilation: int
    folded: bool = False
    dtype: Any = None
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w cin"], *, train: bool) -> Float[Array, "b h2 w2 cout"]:
        y = ConvBN(self.channels, (1, 1), dtype=self.dtype, name="conv1")(x, train=train)
        y = ConvBN(self.channels, (3, 3), self.stride, self.first_dilation, dtype=self.dtype, name="conv2")(
            y, train=train
        )
        last = FoldedConvBN if self.folded else partial(ConvBN, kernel_size=(1, 1), relu=False)
        y = last(self.channels * self.expansion, scale_init=nn.initializers.zeros, dtype=self.dtype, name="conv3")(
            y, train=train
        )
        return nn.relu(_shortcut(x, y, self.stride, self.dtype, train) + y)


def _shortcut(x: Array, y: Array, stride: int, dtype: Any, train: bool) -> Array:
    """The identity, or a strided 1x1 projection where the shape changes. Called inside a block's compact method."""
    if x.shape == y.shape:
        return x
    return ConvBN(y.shape[-1], (1, 1), stride, relu=False, dtype=dtype, name="downsample")(x, train=train)


class ResNet(nn.Module):
    """A ResNet whose last stages trade stride for dilation.

    The first block of a dilated stage keeps half its stage's dilation, which makes the features at output stride 8,
    sub-sampled, equal to those of the ordinary network with the same weights. The last BatchNorm of every residual
    branch starts at zero, as in the authors' release when there are no pretrained weights.

    Attributes:
      depth: 18, 34, 50 or 101.
      stem: "deep" (3x3/2 32, 3x3 32, 3x3 64; "v1c", what the release uses) or "classic" (7x7/2 64).
      strides, dilations: per stage. The defaults give output stride 8; (1, 2, 2, 2) and (1, 1, 1, 1) the
        classification network.
      multi_grid: factors on the dilation of the last stage's blocks, one for each; () for 1 throughout. The first block
        still has half its dilation: from (1, 2, 4) come 2, 8 and 16, as of TorchSeg, the framework of the authors,
        which halves wherever it takes a stride away. (DeepLabV3 does not halve: 4, 8 and 16.)
      stem_impl: "plain", or "cells" to compute the stem on cells of 4x4 pixels (`forms.space_to_depth`) where the sides
        divide: the same numbers but for rounding, and the same parameters.
      dilation_impl: "plain", or "space_to_batch" to compute dilated convolutions as ordinary ones of sub-images (see
        `models.sub_images`) where the sides divide: the same numbers but for rounding, and the same parameters.
      norm_impl: "plain", or "folded" to compute a bottleneck's last BatchNorm within its convolution, in training, too
        (`forms.folded_norm`), where the images of a device fill the tiles of TPUs: the same numbers but for rounding,
        and the same parameters.
      remat: whether the inside of every residual block is computed again for the backward pass rather than kept.
      dtype: of the activations.

    Raises:
      ValueError: on an unknown depth, stem, stem_impl, dilation_impl or norm_impl, and on another number of factors
        than blocks.
    """

    depth: int = 50
    stem: Literal["deep", "classic"] = "deep"
    strides: tuple[int, ...] = (1, 2, 1, 1)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    multi_grid: tuple[int, ...] = ()
    stem_impl: Literal["plain", "cells"] = "plain"
    dilation_impl: Literal["plain", "space_to_batch"] = "plain"
    norm_impl: Literal["plain", "folded"] = "plain"
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b h/8 w/8 c4"], Float[Array, "b h/8 w/8 c5"]]:
        """Features of the last two stages (res4, res5) of normalised images."""
        if self.depth not in STAGE_SIZES:
            raise ValueError(f"depth is {self.depth}; a ResNet here has depth {sorted(STAGE_SIZES)}")
        if self.stem not in STEMS:
            raise ValueError(f"stem is {self.stem!r}; it must be 'deep' or 'classic'")
        if self.stem_impl not in ("plain", "cells"):
            raise ValueError(f"stem_impl is {self.stem_impl!r}; it must be 'plain' or 'cells'")
        if self.dilation_impl not in ("plain", "space_to_batch"):
            raise ValueError(f"dilation_impl is {self.dilation_impl!r}; it must be 'plain' or 'space_to_batch'")
        if self.norm_impl not in ("plain", "folded"):
            raise ValueError(f"norm_impl is {self.norm_impl!r}; it must be 'plain' or 'folded'")
        if self.multi_grid and len(self.multi_grid) != STAGE_SIZES[self.depth][-1]:
            raise ValueError(
                f"multi_grid is {tuple(self.multi_grid)}; the last stage of a ResNet-{self.depth} has "
                f"{STAGE_SIZES[self.depth][-1]} blocks, so it must be empty or as many factors"
            )
        if min(self.multi_grid, default=1) < 1:
            raise ValueError(f"multi_grid is {tuple(self.multi_grid)}; each factor must be 1 or more")
        block = BasicBlock
        if self.depth >= 50:
            # With fewer images it is slower, see docs/performance.md.
            block = partial(Bottleneck, folded=self.norm_impl == "folded" and fills_tiles(images.shape[0]))
        x = self._stem(images, train)
        features = []
        parts = 1  # every image of x is in parts x parts sub-images
        for stage, size in enumerate(STAGE_SIZES[self.depth]):
            last = stage == len(STAGE_SIZES[self.depth]) - 1
            for index in range(size):
                first = index == 0
                stride = self.strides[stage] if first else 1
                factor = self.multi_grid[index] if last and self.multi_grid else 1
                dilation = factor * self.dilations[stage]
                first_dilation = factor * max(self.dilations[stage] // 2, 1) if first else dilation
                # The largest power of two in it: a factor of 3 stays a dilation.
                wanted = (
                    first_dilation & -first_dilation if self.dilation_impl == "space_to_batch" and stride == 1 else 1
                )
                x, parts = rearrange(x, parts, wanted)
                residual = block(
                    channels=64 * 2**stage,
                    stride=stride,
                    first_dilation=first_dilation // parts,
                    dilation=dilation // parts,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{index}",
                )
                x = call(residual, x, train=train, remat=self.remat)
            features.append(rearrange(x, parts, 1)[0])
        return features[-2], features[-1]

    def _stem(self, x: Array, train: bool) -> Array:
        convolutions = [(f"stem{place}", *what) for place, what in enumerate(STEMS[self.stem], start=1)]
        if self.stem_impl == "cells" and x.shape[1] % 4 == x.shape[2] % 4 == 0:
            # Cast first: in the activations' dtype there is less to rearrange.
            x = space_to_depth.to_cells(x.astype(self.dtype or x.dtype), 4)
            for name, channels, size, stride in convolutions:
                x = space_to_depth.ConvBNOfCells(channels, size, stride, dtype=self.dtype, name=name)(x, train=train)
            return space_to_depth.max_pool_of_cells(x)
        for name, channels, size, stride in convolutions:
            x = ConvBN(channels, (size, size), stride, dtype=self.dtype, name=name)(x, train=train)
        return max_pool(x)
