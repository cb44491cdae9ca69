"""Context modules, by their names in config.model.context. docs/extending.md shows how to add one.

A context module is a linen module of feature maps with the attributes `channels` and `dtype`:

    module(x: (b, h, w, c), *, train) -> (b, h, w, c2)

It must work at any size of x. Its result goes into a 3x3 convolution: the head's, or the one before the context prior.
"""

from cpnet_jax.models.contexts.aspp import ASPP
from cpnet_jax.models.contexts.non_local import NonLocal
from cpnet_jax.models.contexts.psp import PyramidPooling

CONTEXTS = {
    "psp": PyramidPooling,
    "aspp": ASPP,
    "non_local": NonLocal,
}
