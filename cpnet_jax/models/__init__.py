"""The network: pure linen modules that know nothing of configs, data or devices."""

from cpnet_jax.models.aggregation import Aggregation
from cpnet_jax.models.context_prior import ContextPrior, PriorFactors
from cpnet_jax.models.cpnet import CPNet, CPNetOutput
from cpnet_jax.models.resampling import upsample
from cpnet_jax.models.resnet import ResNet

__all__ = ["Aggregation", "CPNet", "CPNetOutput", "ContextPrior", "PriorFactors", "ResNet", "upsample"]
