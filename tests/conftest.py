"""Eight virtual CPU devices, one compilation cache, and every annotation of the package checked at each call."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One cache for all test processes and the programs that they start, kept for the next test run. JAX finds a program
# there only if nothing that it was compiled from has changed.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(f"{__file__}/../../.cache/tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# No test downloads a dataset: nothing listens there.
os.environ["CPNET_MIRROR"] = "http://127.0.0.1:9"

import jax
import jaxtyping
import pytest
from small_main import BLOCKS, CACHE

MOST_CACHED = 4 * 2**30
# XLA's older and simpler code generators for CPUs, and one LLVM module a program. Small programs compile in half the
# time. The XLA of JAX 0.11 has lost the first option, and aborts on an unknown one.
QUICK_XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

jax.config.update("jax_num_cpu_devices", 8)

_register_dataclass = jax.tree_util.register_dataclass


def _register_unchecked(cls, *args, **kwargs):
    # JAX builds pytrees from whatever their leaves are mapped to: shapes, shardings, batches of one axis less.
    cls.__no_type_check__ = True
    return _register_dataclass(cls, *args, **kwargs)


jax.tree_util.register_dataclass = _register_unchecked

# Before any test imports the package. The "tower" lets an int stand where a float is asked for, as type checkers do.
jaxtyping.install_import_hook("cpnet_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    # Workers inherit it. Tests that are `long` run what users run.
    if jax.__version_info__ < (0, 11) and config.option.markexpr == "not long" and not is_worker:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_XLA_FLAGS}"
    for cache in (Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), Path(CACHE)):
        if not is_worker and sum(path.stat().st_size for path in cache.rglob("*")) > MOST_CACHED:
            shutil.rmtree(cache)


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs of small arrays, which take longer to optimise than to run. Convolutions become slow."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@contextmanager
def _small_backbone():
    from cpnet_jax.models import resnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGE_SIZES, 18, BLOCKS)
        yield


@pytest.fixture
def small_backbone():
    """ResNet-18 with two residual blocks and 128 channels, for a test whose subject is not the backbone."""
    with _small_backbone():
        yield


@pytest.fixture(scope="module")
def small_backbone_in_module():
    """The same for all tests and fixtures of a module."""
    with _small_backbone():
        yield


@pytest.fixture
def without_shape_checks():
    """For tests of what the package itself says of wrong arguments."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
