"""Context modules, by the names that `models.CPNet` and config.model.context know them by.

A context module is a linen module of feature maps with the attributes `channels` and `dtype`:

    module(x: (b, h, w, c), *, train) -> (b, h, w, c2)

What it returns is for a 3x3 convolution to take in: the head's, or that in front of the context prior. It works at any
size of x. docs/extending.md adds another one.
"""

from cpnet_jax.models.contexts.aspp import ASPP
from cpnet_jax.models.contexts.non_local import NonLocal
from cpnet_jax.models.contexts.psp import PyramidPooling

CONTEXTS = {
    "psp": PyramidPooling,
    "aspp": ASPP,
    "non_local": NonLocal,
}
