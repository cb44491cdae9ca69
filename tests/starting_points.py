"""Small networks, and what training starts from if config.init names them."""

from functools import partial

import jax
import numpy as np
from random_weights import draw

from configs import default
from cpnet_jax import sharding, weights
from cpnet_jax.config import build
from cpnet_jax.training.state import initial_variables
from cpnet_jax.weights import tensor_files
from cpnet_jax.weights.start import StartingPoint, start_from


def make_config(classes=11, crop=(32, 48)):
    config = default.get_config()
    config.data.num_classes, config.data.crop_size = classes, crop
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 8, 8
    return config


def make_variables(config, seed=0):
    init = partial(initial_variables, build.make_model(config), tuple(config.data.crop_size), jax.random.key(0))
    return draw(jax.eval_shape(init), seed)


def starting_point(config, **fields):
    fields = {"backbone": "", "checkpoint": "", "skip": (), "saved_prior_size": ()} | fields
    size = build.fixed_prior_size(config)
    return StartingPoint(prior_size=size, mean=tuple(config.data.mean), std=tuple(config.data.std), **fields)


def start(config=None, **fields):
    """Returns the initial variables, those that training starts from, and the printed lines."""
    config = config or make_config()
    mesh, initial = sharding.make_mesh(), make_variables(config, seed=1)
    variables, lines = start_from(starting_point(config, **fields), initial, mesh)
    return initial, variables, lines


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def write_cpnet(path, variables, metadata=None):
    """Writes a whole network as --mode=convert does; without metadata, like the authors."""
    tensor_files.write(path, weights.cpnet_tensors(variables, batches_tracked=1), metadata or {})
    return str(path)


OURS = {"experiment": "here"} | weights.InputNormalization().as_metadata()
