"""Context modules, by their names in config.model.context. docs/extending.md shows how to add one.

A context module is a linen module of feature maps with the attributes `channels` and `dtype`:

    module(x: (b, h, w, c), *, train) -> (b, h, w, c2)

It must work at any size of x. Its result goes into a 3x3 convolution: the head's, or the one before the context prior.

It may have another argument, `real`: Bool (b, h, w), False where a position is padding, or None. Then it must leave
padding out of sums and maxima over positions, and images may be predicted whole, without windows.
"""

import inspect
from typing import Any

from cpnet_jax.models.contexts.aspp import ASPP
from cpnet_jax.models.contexts.non_local import NonLocal
from cpnet_jax.models.contexts.psp import PyramidPooling

CONTEXTS = {
    "psp": PyramidPooling,
    "aspp": ASPP,
    "non_local": NonLocal,
}


def masks_padding(module: Any) -> bool:
    """Whether a context module has the argument `real`."""
    return "real" in inspect.signature(module.__call__).parameters
