"""Tensor names and shapes of real files, from keys/NAME.txt, and random tensors with them."""

from functools import cache, lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cpnet_jax.models import CPNet, ResNet

KEYS = Path(__file__).parent / "keys"
COUNTER = "num_batches_tracked"


def shapes(name):
    lines = [line.split() for line in (KEYS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    return {key: tuple(map(int, shape)) for key, *shape in lines}


@lru_cache(maxsize=1)  # those of a ResNet-101 take 200 MB
def tensors(name):
    """Random tensors with the names and shapes of a file."""
    rng = np.random.default_rng(0)
    return {
        key: np.asarray(90_000, np.int64) if key.endswith(COUNTER) else rng.random(shape, np.float32)
        for key, shape in shapes(name).items()
    }


@cache
def backbone(depth, stem):
    """Shapes of a ResNet's variables."""
    return _shapes(ResNet(depth, stem), (8, 8))


@cache
def cpnet(depth, *, stem="deep", prior_size=(64, 64), num_classes=150, **attributes):
    model = CPNet(num_classes=num_classes, depth=depth, stem=stem, prior_size=prior_size, **attributes)
    return _shapes(model, tuple(8 * side for side in prior_size))


def _shapes(model, size):
    return dict(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)))
