"""Eight virtual CPU devices, and every annotation of the package checked at each call."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)

_register_dataclass = jax.tree_util.register_dataclass


def _register_unchecked(cls, *args, **kwargs):
    # JAX builds pytrees from whatever their leaves are mapped to: shapes, shardings, batches of one axis less.
    cls.__no_type_check__ = True
    return _register_dataclass(cls, *args, **kwargs)


jax.tree_util.register_dataclass = _register_unchecked

# Before any test imports the package. The "tower" lets an int stand where a float is asked for, as type checkers do.
jaxtyping.install_import_hook("cpnet_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def without_shape_checks():
    """For tests of what the package itself says of wrong arguments."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
