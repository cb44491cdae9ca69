"""Prediction of whole images."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from cpnet_jax import sharding
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.inference.windows import predict
from cpnet_jax.models import upsample


class Predictor:
    """SKELETON (the lead replaces its inside; the interface stays): single scale only for now."""

    def __init__(self, model: TrainedModel, mesh: Mesh, *, protocol: Protocol = Protocol(), batch_size: int = 16):
        self._model, self._mesh = model, mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size

    def classes(self, examples: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, "h w"]]]:
        """(example, class of every pixel of its "image"), in order; images uint8 (h, w, 3) of any size."""
        def probabilities(windows):
            logits = self._model.logits(sharding.to_devices(self._mesh, windows))
            return np.asarray(jax.nn.softmax(upsample(logits, windows.shape[1:3]), axis=-1))

        return predict(probabilities, examples, crop_size=self._model.crop_size, batch_size=self._batch_size, fill=self._model.mean)

    def probabilities(
        self, examples: Iterable[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], Float[np.ndarray, "h w k"]]]:
        """(example, scores of every pixel, float32, over classes summing to 1), in order."""
        raise NotImplementedError
