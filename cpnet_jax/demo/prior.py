"""The context prior of a picture's central window, for template/prior.js."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import augment
from cpnet_jax.demo.picture import Prediction
from cpnet_jax.evaluation.report.prior import POSITIONS, touchable
from cpnet_jax.evaluation.samples import PriorMap
from cpnet_jax.inference.load import Restored
from cpnet_jax.inference.network import compiled_network
from cpnet_jax.inference.prior_maps import choose_positions, sample_priors

# Positions to show first, of as many regions.
MARKS = 3
Touchable = dict[str, Any]  # see `report.prior.touchable`


def make_prior(found: Restored, mesh: Mesh) -> Callable[[Prediction], Touchable]:
    """Returns the function that computes the context prior of a picture; only for networks that have one.

    The ideal rows that it is compared with are those of the predicted classes.
    """
    data = found.config.data
    crop_size, mean, std = tuple(data.crop_size), tuple(data.mean), tuple(data.std)
    grid = build.prior_size(found.config)
    network = compiled_network(found.model, mesh, mean=mean, std=std)

    def prior(prediction: Prediction) -> Touchable:
        ignored = found.dataset.ignore_label
        image, classes = augment.central_crop(prediction.image, prediction.classes, crop_size, mean, ignored)
        at_positions = np.asarray(losses.downsample_labels(classes[None], grid)).reshape(grid)
        # Every device gets the same window, because there is only one.
        windows = sharding.to_devices(mesh, np.stack([image] * mesh.size))
        [sampled, *_] = sample_priors(
            network(found.variables, windows).prior, grid, POSITIONS, np.stack([at_positions.ravel()] * mesh.size)
        )
        marks = choose_positions(at_positions, MARKS, ignored)
        window = PriorMap(prediction.name, image, at_positions, tuple(marks), sampled)
        return touchable([window], found.dataset, found.step, ideal_from="prediction")

    return prior
