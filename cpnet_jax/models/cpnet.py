"""CPNet, the network of the paper: dilated ResNet, Context Prior Layer, segmentation head and auxiliary head."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cpnet_jax.models.context_prior import ContextPrior, PriorFactors, PriorOptions, RowTargets
from cpnet_jax.models.contexts import masks_padding
from cpnet_jax.models.forms import Forms
from cpnet_jax.models.layers import ConvBN, small_normal
from cpnet_jax.models.resnet import ResNet

OUTPUT_STRIDE = 8


class CPNetOutput(NamedTuple):
    """The results of one forward pass; logits are float32 at output stride 8.

    `aux_logits` is None without the auxiliary head, `prior` is None without the context prior.
    """

    logits: Float[Array, "b h/8 w/8 k"]
    aux_logits: Float[Array, "b h/8 w/8 k"] | None
    prior: PriorFactors | None


class Head(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, dropout of whole channels (as in the release) and a 1x1 classifier."""

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
    """The whole network: by default the paper's, with a ResNet-50.

    The features that the head sees are the backbone's, together with:

    | `context` | with the context prior | without |
    |---|---|---|
    | None | intra- and inter-class context of the aggregated features: the paper's network | nothing: a dilated FCN |
    | a module | both contexts of the module's features, reduced by a 3x3 convolution | the module's: PSPNet, ... |

    Attributes:
      num_classes: K.
      depth, stem: of the ResNet, see `models.ResNet`; ignored with a `backbone`.
      prior_size: (h, w) of the feature map = crop size / 8, for a context prior of positions.
      channels: of the head, the aggregation and the contexts (the paper: 512).
      aux_channels: of the auxiliary head (256); 0 leaves the head out.
      context_prior: whether there is a Context Prior Layer.
      prior: choices of that layer, for ablations.
      context: constructor of a context module, such as `models.contexts.PyramidPooling`, called with `channels` and
        `dtype`. With the context prior, the module replaces the Aggregation Module, as where the paper combines both.
      backbone: constructor of a backbone (see `models.backbones`), called with `forms` and `dtype`; None is the ResNet
        that `depth` and `stem` describe.
      dropout: rate before both classifiers (0.1).
      forms: how the operations are computed; the results are the same except for rounding.
      dtype: of the activations, float32 if None; jnp.bfloat16 for accelerators. Parameters, BatchNorm statistics, the
        prior and the returned logits are float32 either way.

    To train, apply with `train=True`, `mutable=["batch_stats"]` and a "dropout" rng.
    """

    num_classes: int
    depth: int = 50
    prior_size: tuple[int, int] | None = (60, 60)
    stem: Literal["deep", "classic"] = "deep"
    channels: int = 512
    aux_channels: int = 256
    context_prior: bool = True
    prior: PriorOptions = PriorOptions()
    context: Callable[..., nn.Module] | None = None
    backbone: Callable[..., nn.Module] | None = None
    dropout: float = 0.1
    forms: Forms = Forms()
    dtype: Any = None

    @property
    def takes_any_size(self) -> bool:
        """Whether images may have any size in multiples of 8, and may be padded: no part needs a fixed size, and all
        parts that compute sums over positions leave out padding."""
        of_fixed_size = self.context_prior and self.prior.kind == "positions"
        context = self.context and self.context(channels=self.channels, dtype=self.dtype, parent=None)
        return not of_fixed_size and (context is None or masks_padding(context))

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        train: bool,
        targets: RowTargets | None = None,
        real: Bool[Array, "b h/8 w/8"] | None = None,
    ) -> CPNetOutput:
        """Computes logits and context prior.

        Args:
          images: normalised (mean 0, standard deviation about 1), sides divisible by 8.
          train: whether BatchNorm takes its statistics from the batch, and dropout is active.
          targets: `losses.AffinityTargets` of the same images. The affinity loss's sums are then computed in the same
            pass over the prior as the contexts and returned with the prior: the same numbers with a third fewer matrix
            products.
          real: False for cells of 8 x 8 pixels that only pad an image; the contexts leave them out. None: all are real.
            Only for networks of which `takes_any_size` is true.

        Raises:
          ValueError: if 8 does not divide both sides, or if the images' size is not 8 * prior_size with a context prior
            of positions.
        """
        if images.shape[1] % OUTPUT_STRIDE or images.shape[2] % OUTPUT_STRIDE:
            raise ValueError(f"images are {images.shape[1]}x{images.shape[2]}: both sides must be multiples of 8")
        backbone = self.backbone or partial(ResNet, self.depth, self.stem)
        res4, res5 = backbone(forms=self.forms, dtype=self.dtype, name="backbone")(images, train=train)

        features, prior = res5, None
        if self.context:
            module = self.context(channels=self.channels, dtype=self.dtype, name="context_module")
            features = module(res5, train=train, **({} if real is None else {"real": real}))
        if self.context_prior:
            intra, inter, prior = self._prior_layer(features)(features, train=train, targets=targets, real=real)
            features = jnp.concatenate([x for x in (res5, intra, inter) if x is not None], axis=-1)

        head = partial(Head, num_classes=self.num_classes, dropout=self.dropout, dtype=self.dtype)
        logits = head(self.channels, name="head")(features, train=train)
        aux_logits = head(self.aux_channels, name="aux_head")(res4, train=train) if self.aux_channels else None
        return CPNetOutput(logits, aux_logits, prior)

    def _prior_layer(self, features: Float[Array, "b h w c"]) -> ContextPrior:
        return ContextPrior(
            self.prior_size,
            self.channels,
            replace(self.prior, aggregation=False) if self.context else self.prior,
            block_rows=self.forms.block_rows(math.prod(features.shape[1:3])),
            dtype=self.dtype,
            name="context",
        )
