"""The network: pure linen modules, independent of configs, data and devices."""

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.context_prior import ContextPrior, PriorFactors, PriorOptions
from cpnet_jax.models.cpnet import CPNet, CPNetOutput
from cpnet_jax.models.forms import Forms
from cpnet_jax.models.resampling import upsample
from cpnet_jax.models.resnet import ResNet

__all__ = [
    "Aggregation",
    "CPNet",
    "CPNetOutput",
    "ContextPrior",
    "Forms",
    "PriorFactors",
    "PriorOptions",
    "ResNet",
    "upsample",
]
