"""CPNet, the network of the paper: dilated ResNet, Context Prior Layer, segmentation head and auxiliary head."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from cpnet_jax.models.context_prior import DEFAULT_BLOCK_ROWS, ContextPrior, PriorFactors, RowTargets
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.layers import ConvBN, call, small_normal
from cpnet_jax.models.resnet import ResNet

OUTPUT_STRIDE = 8


class CPNetOutput(NamedTuple):
    """What one forward pass gives; logits are float32 at output stride 8.

    `aux_logits` is None without the auxiliary head, `prior` is None without the context prior.
    """

    logits: Float[Array, "b h/8 w/8 k"]
    aux_logits: Float[Array, "b h/8 w/8 k"] | None
    prior: PriorFactors | None


class Head(nn.Module):
    """3x3 convolution, BN, ReLU, dropout of whole channels (as in the release), 1x1 classifier."""

    channels: int
    num_classes: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w k"]:
        x = ConvBN(self.channels, (3, 3), dtype=self.dtype, name="conv")(x, train=train)
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        classifier = nn.Conv(self.num_classes, (1, 1), kernel_init=small_normal, dtype=self.dtype, name="classifier")
        return classifier(x).astype(jnp.promote_types(x.dtype, jnp.float32))


class CPNet(nn.Module):
    """The whole network.

    What its head sees is, beside the backbone's features:

    | context | with the context prior | without |
    |---|---|---|
    | "none" | its contexts, of the Aggregation Module's features: the paper's network | nothing: its dilated FCN |
    | another | its contexts, of a 3x3 reduction of the module's features | the module's: a PSPNet, a DeepLabV3, ... |

    Attributes:
      num_classes: K.
      depth: of the backbone: 18, 34, 50 or 101.
      prior_size: (h, w) of the feature map = crop size / 8; used only with the context prior.
      stem: "deep" (the release) or "classic" (7x7).
      channels: of the head, the aggregation and the contexts (the paper: 512).
      aux_channels: of the auxiliary head (256); 0 leaves the head out.
      context: "none" or a name in `models.contexts.CONTEXTS`: "psp", "aspp", "non_local". With the context prior, the
        module takes the Aggregation Module's place, as where the paper combines the two.
      context_options: attributes of that module beside `channels` and `dtype`.
      context_prior: whether there is a Context Prior Layer.
      aggregation: False leaves of the Aggregation Module only its 3x3 reduction. It and its kernel count for nothing
        where there is no such module: without the context prior, or with another context.
      aggregation_kernel: k of the Aggregation Module (11).
      prior_contexts: of the context prior, those that the head sees: "both", "intra" or "inter"; the layers of the
        other do not exist.
      divide_by_n: whether they are divided by N (the release) or not (the paper), see `models.PriorFactors`.
      dropout: rate before both classifiers (0.1).
      prior_impl: "blocks" works through the context prior a block of rows at a time, "dense" with N x N arrays: the
        same numbers but for rounding, and the same parameters.
      prior_block_rows: rows of an image in a block.
      multi_grid: factors on the dilation of the last stage's blocks, see `models.ResNet`.
      stem_impl: how the backbone's stem is computed: "plain" or "cells" (see `models.ResNet`).
      dilation_impl: how the backbone's dilated convolutions are computed: "plain" or "space_to_batch" (see
        `models.ResNet`).
      norm_impl: how the last BatchNorm of the backbone's bottlenecks is computed: "plain" or "folded" (see
        `models.ResNet`).
      remat: what is computed again for the backward pass rather than kept: nothing ("none"), the inside of every
        residual block ("blocks"), that of the context prior and the heads, too ("full").
      dtype: of the activations, float32 when None; jnp.bfloat16 for accelerators. Parameters, BatchNorm statistics,
        the prior and the returned logits are float32 either way.

    Apply with `train=True`, `mutable=["batch_stats"]` and a "dropout" rng to train.
    """

    num_classes: int
    depth: int = 50
    prior_size: tuple[int, int] = (60, 60)
    stem: Literal["deep", "classic"] = "deep"
    channels: int = 512
    aux_channels: int = 256
    context: str = "none"
    context_options: Mapping[str, Any] = FrozenDict()
    context_prior: bool = True
    aggregation: bool = True
    aggregation_kernel: int = 11
    prior_contexts: Literal["both", "intra", "inter"] = "both"
    divide_by_n: bool = True
    dropout: float = 0.1
    prior_impl: Literal["dense", "blocks"] = "blocks"
    prior_block_rows: int = DEFAULT_BLOCK_ROWS
    multi_grid: tuple[int, ...] = ()
    stem_impl: Literal["plain", "cells"] = "plain"
    dilation_impl: Literal["plain", "space_to_batch"] = "plain"
    norm_impl: Literal["plain", "folded"] = "plain"
    remat: Literal["none", "blocks", "full"] = "none"
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool, targets: RowTargets | None = None
    ) -> CPNetOutput:
        """The forward pass.

        Args:
          images: normalised (mean 0, standard deviation about 1), sides divisible by 8.
          train: whether BatchNorm takes its statistics from the batch, and dropout is at work.
          targets: what the affinity loss is going to compare the prior with (`losses.AffinityTargets` of the same
            images). The loss's sums are then taken in the same pass over the prior as the contexts, and the prior
            brings them along: a third fewer matrix products, the same numbers.

        Raises:
          ValueError: on sides that 8 does not divide, or another size than 8 * prior_size with the context prior;
            on another `context`, `prior_contexts`, `prior_impl` or `remat`, a block without rows, or a `multi_grid`
            of another length than the last stage.
        """
        if images.shape[1] % OUTPUT_STRIDE or images.shape[2] % OUTPUT_STRIDE:
            raise ValueError(f"images are {images.shape[1]}x{images.shape[2]}: both sides must be multiples of 8")
        if self.remat not in ("none", "blocks", "full"):
            raise ValueError(f"remat is {self.remat!r}; it must be 'none', 'blocks' or 'full'")
        backbone = ResNet(
            self.depth,
            self.stem,
            multi_grid=self.multi_grid,
            stem_impl=self.stem_impl,
            dilation_impl=self.dilation_impl,
            norm_impl=self.norm_impl,
            remat=self.remat != "none",
            dtype=self.dtype,
            name="backbone",
        )
        res4, res5 = backbone(images, train=train)
        full = self.remat == "full"
        features, prior = res5, None
        if self.context != "none":
            features = call(self._context_module(), res5, train=train, remat=full)
        if self.context_prior:
            intra, inter, prior = call(self._prior_layer(), features, train=train, targets=targets, remat=full)
            features = jnp.concatenate([x for x in (res5, intra, inter) if x is not None], axis=-1)
        head = Head(self.channels, self.num_classes, self.dropout, self.dtype, name="head")
        logits = call(head, features, train=train, remat=full)
        aux_logits = None
        if self.aux_channels:
            aux_head = Head(self.aux_channels, self.num_classes, self.dropout, self.dtype, name="aux_head")
            aux_logits = call(aux_head, res4, train=train, remat=full)
        return CPNetOutput(logits, aux_logits, prior)

    def _context_module(self) -> nn.Module:
        if self.context not in CONTEXTS:
            raise ValueError(f"context is {self.context!r}; it must be one of {['none', *CONTEXTS]}")
        module = CONTEXTS[self.context]
        return module(channels=self.channels, dtype=self.dtype, name="context_module", **self.context_options)

    def _prior_layer(self) -> ContextPrior:
        return ContextPrior(
            self.prior_size,
            self.channels,
            self.aggregation_kernel,
            self.dtype,
            self._block_rows(),
            aggregation=self.aggregation and self.context == "none",
            contexts=self.prior_contexts,
            divide_by_n=self.divide_by_n,
            name="context",
        )

    def _block_rows(self) -> int | None:
        if self.prior_impl not in ("dense", "blocks"):
            raise ValueError(f"prior_impl is {self.prior_impl!r}; it must be 'dense' or 'blocks'")
        if self.prior_block_rows < 1:
            raise ValueError(f"prior_block_rows is {self.prior_block_rows}; it must be 1 or more")
        return self.prior_block_rows if self.prior_impl == "blocks" else None
