"""Training on a device with too little memory ends with a sentence that names fields which help."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from configs import quickstart
from cpnet_jax.errors import UserError
from cpnet_jax.modes.train import _explaining_memory
from cpnet_jax.training.checkpoint import Checkpoints


def explained(*, begun=False, **fields):
    """What the program says if its device lacks memory before or after its first checkpoint."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(fields)
    checkpoints = Mock(spec=Checkpoints, begun=lambda: begun)
    with pytest.raises(UserError) as caught, _explaining_memory(config, checkpoints):
        jax.block_until_ready(jnp.zeros(10**15))
    return str(caught.value)


def test_a_lack_of_memory_is_reported_with_the_fields_that_help():
    devices = jax.device_count()
    said = explained(batch_size=4 * devices)
    assert f"train on {4 * devices} images with {devices} device(s)" in said and "out of memory" in said.lower()
    advice = said.rpartition(": ")[2]
    assert advice == (
        f"give --config.system.remat=blocks, or give --config.batch_size={2 * devices}, or use devices with more memory"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 1},
        {"batch_size": jax.device_count()},
        {"batch_size": 4 * jax.device_count(), "optimizer.accumulate": 4},
        {"batch_size": 4 * jax.device_count(), "begun": True},
    ],
    ids=["one image", "one image on each device", "one image in each micro-batch", "a run that has begun"],
)
def test_no_batch_is_advised_that_would_be_refused(fields):
    said = explained(**{"system.remat": "blocks"} | fields)
    assert said.endswith(": use devices with more memory")


def test_other_errors_of_a_device_keep_their_traceback():
    broken = jax.errors.JaxRuntimeError("INTERNAL: not about memory")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="not about memory"),
        _explaining_memory(quickstart.get_config(), Mock(spec=Checkpoints)),
    ):
        raise broken
