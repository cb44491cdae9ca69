"""The tensors that the tests of --mode=convert write to files."""

import jax
import numpy as np
import pytest
from weights import key_lists

from cpnet_jax import weights


@pytest.fixture(scope="session")
def tensors():
    like = key_lists.cpnet(18, prior_size=(2, 3), num_classes=11, channels=8, aux_channels=4)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), like)
    return weights.cpnet_tensors(variables, batches_tracked=0)
