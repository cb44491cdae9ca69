"""Start values of both networks: parameters and statistics in float32, equal for every precision."""

import jax
import jax.numpy as jnp
import numpy as np
import random_weights
from flax.traverse_util import flatten_dict, unflatten_dict

# In standard deviations: one value in a thousand is further from its channel's mean.
MARGIN = 3.0


def anywhere(model, image_size):
    """Random values: no scale is 1, no bias or mean is 0, and every branch has an effect."""
    image = jnp.zeros((1, *image_size, 3))
    return random_weights.draw(jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False)))


def away_from_kinks(model, image_size):
    """Random values with which, in training, hardly any input of a ReLU is close to zero.

    A ReLU passes nearly all values of its channel or, for a quarter of the channels, nearly none. If float32's rounding
    moved a value across zero, the gradient would change by far more than rounding: with `anywhere`, torch's float32
    gradient differs from its float64 gradient by up to 25%.
    """
    variables = anywhere(model, image_size)
    # Copies that can be changed in place.
    params, rng = flatten_dict(jax.tree.map(np.array, variables["params"])), np.random.default_rng(2)
    for path in sorted(path[:-1] for path in params if path[-2:] == ("bn", "scale")):
        scale, bias = params[*path, "scale"], params[*path, "bias"]
        if _ends_branch(path, params):  # adds little to a positive shortcut
            scale *= 0.1
            bias *= 0.1
        else:
            passes = _is_shortcut(path, params) | (rng.random(scale.shape) < 0.75)
            bias[:] = np.where(passes, MARGIN, -MARGIN) * scale
    return variables | {"params": jax.tree.map(jnp.asarray, unflatten_dict(params))}


def _ends_branch(path, params):
    *block, conv, _ = path
    last = "conv3" if (*block, "conv3", "bn", "scale") in params else "conv2"
    return block[-1].startswith("layer") and conv == last if block else False


def _is_shortcut(path, params):
    """A projection, or the end of the stem, which is the first block's shortcut if that has no projection."""
    last = "stem3" if ("backbone", "stem3", "bn", "scale") in params else "stem1"
    return path[-2] in ("downsample", last)
