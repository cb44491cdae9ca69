"""What the compiler says when a step does not fit, and what is compiled at all."""

import jax
import jax.numpy as jnp
import pytest

from configs import ade20k
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.plan import flops, step
from cpnet_jax.training.state import create_state

GIB = 2**30
AT_ALLOCATION = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 24.01G of 15.75G "
    "hbm. Exceeded hbm capacity by 8.26G.\n\nTotal hbm usage >= 24.26G:\n    reserved        258.00M"
)
AT_SCHEDULING = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (45.17G) exceeds available HBM (15.75G). HLO module: jit_f."
)


@pytest.mark.parametrize(("message", "needed"), [(AT_ALLOCATION, 24.01), (AT_SCHEDULING, 45.17)])
def test_a_shortage_of_memory_is_told_from_its_message(message, needed):
    assert step.needed_bytes(message) == int(needed * GIB)


def test_another_error_is_no_shortage_of_this_memory():
    assert step.needed_bytes("INVALID_ARGUMENT: Topology layout is not divisible") is None
    assert step.needed_bytes(AT_ALLOCATION.replace("hbm", "vmem")) is None


def small():
    config = ade20k.get_config()
    config.data.crop_size = (32, 32)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 8, 0
    return config


def test_what_is_compiled_is_what_training_runs():
    """A real state and a batch as the pipeline makes it lead to the same program as their shapes alone."""
    config, mesh = small(), sharding.make_mesh()
    train_step = build.make_train_step(config, mesh)
    abstract = step._abstract_state(config, mesh), step._abstract_batch(config, mesh, 2)

    model, tx = build.make_model(config), build.make_optimizer(config)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: create_state(model, tx, (32, 32), 0))
    )
    state = jax.device_put(zeros, sharding.replicated(mesh))
    batch = {"image": jnp.zeros((16, 32, 32, 3), jnp.uint8), "label": jnp.zeros((16, 32, 32), jnp.uint8)}
    batch = jax.device_put(batch, sharding.split(mesh))
    assert train_step.lower(*abstract).as_text() == train_step.lower(state, batch).as_text()


def test_kernels_on_cells_are_known_as_made_of_parameters_and_activations_are_not():
    config, mesh = small(), sharding.make_mesh()
    state = step._abstract_state(config, mesh)
    plain = step._shapes([state.params, step._made_of_parameters(config, mesh, state)])
    config.model.stem_impl = "cells"
    found = step._shapes(step._made_of_parameters(config, mesh, state))
    assert [2, 2, 48, 128] in found and [2, 2, 48, 128] not in plain
    assert [2, 2, 2, 2, 3, 4, 4, 32] in [sorted(side for side in shape if side > 1) for shape in found]
    # The stem's output and the features.
    assert not [shape for shape in found if shape[-3:-1] in ([8, 8], [4, 4])]


@pytest.mark.parametrize("tpu", [True, False])
@pytest.mark.parametrize("space_to_batch", [True, False])
def test_only_tpus_are_told_to_leave_small_batches_whole(monkeypatch, tpu, space_to_batch):
    config = small()
    config.compiler.tpu_space_to_batch = space_to_batch
    monkeypatch.setattr(build.sharding, "is_on_tpus", lambda mesh: tpu)
    monkeypatch.setattr(build.jax, "jit", lambda step, **options: options)
    told = build.make_train_step(config, sharding.make_mesh())["compiler_options"] or {}
    passes = {"xla_tpu_run_space_to_batch", "xla_tpu_run_space_to_batch_on_new_platforms"}
    assert told == (dict.fromkeys(passes, False) if tpu and not space_to_batch else {})


def test_tpus_have_forms_of_their_own_unless_told_otherwise():
    config = small()
    chosen = [build.make_model(config, for_tpus=tpu) for tpu in (True, False)]
    choices = [(model.stem_impl, model.norm_impl, model.prior_block_rows) for model in chosen]
    assert choices == [("cells", "folded", 16), ("plain", "plain", 512)]
    config.model.stem_impl, config.model.norm_impl, config.model.prior_block_rows = "plain", "plain", 7
    told = build.make_model(config, for_tpus=True)
    assert (told.stem_impl, told.norm_impl, told.prior_block_rows) == ("plain", "plain", 7)


@pytest.mark.parametrize(("crop", "rows"), [((480, 480), 3600), ((512, 512), 4096), ((520, 512), 1024)])
def test_tpus_take_an_image_at_once_where_its_rows_fit_their_memory(crop, rows):
    config = small()
    config.data.crop_size = crop
    assert build.make_model(config, for_tpus=True).prior_block_rows == rows


def test_what_is_computed_twice_or_with_zeros_counts_once():
    config, mesh = small(), sharding.make_mesh()

    def count(config):
        state, batch = step._abstract_state(config, mesh), step._abstract_batch(config, mesh, 1)
        return flops.count(build.make_train_step(config, mesh).trace(state, batch).jaxpr.jaxpr)

    config.model.prior_impl, config.model.stem_impl = "dense", "plain"
    once = count(config)
    config.model.prior_impl, config.system.remat = "blocks", "full"
    assert count(config) > once
    config.model.prior_impl, config.system.remat, config.model.stem_impl = "dense", "none", "cells"
    assert count(config) > once
    assert count(step._as_defined(config)) == once
