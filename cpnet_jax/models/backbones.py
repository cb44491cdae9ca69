"""Backbones, by their names in config.model.backbone. docs/extending.md shows how to add one.

A backbone is a linen module with the attributes `forms` (see `models.forms`; it may ignore them) and `dtype` (of the
activations), which extracts features at output stride 8:

    module(images: (b, h, w, 3), *, train) -> (res4: (b, h/8, w/8, c4), res5: (b, h/8, w/8, c5))

The images are normalised, and h and w are multiples of 8. The auxiliary head sees res4; the context module, the Context
Prior Layer and the head see res5. The channels c4 and c5 are the backbone's choice.
"""

from cpnet_jax.models.resnet import ResNet

BACKBONES = {
    "resnet": ResNet,
}
