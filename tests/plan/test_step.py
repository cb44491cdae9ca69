"""The compiled step is that of training; out-of-memory errors are parsed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from configs import ade20k
from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.models import Forms
from cpnet_jax.plan import flops, step, topologies
from cpnet_jax.training.state import create_state

pytestmark = pytest.mark.usefixtures("small_backbone_in_module")
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
def test_the_needed_bytes_are_parsed_from_out_of_memory_errors(message, needed):
    assert step.needed_bytes(message) == int(needed * GIB)


def test_other_errors_have_no_needed_bytes():
    assert step.needed_bytes("INVALID_ARGUMENT: Topology layout is not divisible") is None
    assert step.needed_bytes(AT_ALLOCATION.replace("hbm", "vmem")) is None


def small():
    config = ade20k.get_config()
    config.data.crop_size = (32, 32)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 8, 0
    return config


def test_the_compiled_step_is_the_one_that_training_runs():
    """A real state and batch give the same program as their shapes."""
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


def test_space_to_depth_kernels_count_as_computed_from_parameters_and_activations_do_not():
    config, mesh = small(), sharding.make_mesh()
    state = step._abstract_state(config, mesh)
    plain = step._shapes([state.params, step._computed_from_parameters(config, mesh, state)])
    config.system.forms = "tpu"
    found = step._shapes(step._computed_from_parameters(config, mesh, state))
    assert [2, 2, 48, 128] in found and [2, 2, 48, 128] not in plain
    assert [2, 2, 2, 2, 3, 4, 4, 32] in [sorted(side for side in shape if side > 1) for shape in found]
    # The stem's output and the features.
    assert not [shape for shape in found if shape[-3:-1] in ([8, 8], [4, 4])]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_each_compiler_gets_only_its_own_options(monkeypatch, platform):
    config = small()
    monkeypatch.setattr(build.sharding, "is_on_tpus", lambda mesh: platform == "tpu")
    monkeypatch.setattr(build.sharding, "is_on_cpus", lambda mesh: platform == "cpu")
    monkeypatch.setattr(build.jax, "jit", lambda step, **options: options)
    options = build.make_train_step(config, sharding.make_mesh())["compiler_options"]
    passes = {"xla_tpu_run_space_to_batch", "xla_tpu_run_space_to_batch_on_new_platforms"}
    expected = {
        "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        "gpu": None,
        "tpu": dict.fromkeys(passes, False),
    }
    assert options == expected[platform]


def test_training_takes_the_forms_of_its_devices_or_of_the_config(monkeypatch):
    config, mesh = small(), sharding.make_mesh()
    assert build.training_forms(config, mesh) == Forms.for_platform("cpu")
    config.system.forms, config.system.remat = "tpu", "blocks"
    assert build.training_forms(config, mesh) == replace(Forms.for_platform("tpu"), remat=True)
    config.system.forms, config.system.remat = "auto", "none"
    monkeypatch.setattr(build.sharding, "is_on_tpus", lambda mesh: True)
    assert build.training_forms(config, mesh) == Forms.for_platform("tpu")
    assert build.make_model(config).forms == Forms(), "evaluation and export use the plain forms"


def test_what_is_computed_twice_or_with_zeros_counts_once():
    config, mesh = small(), sharding.make_mesh()

    def count(forms):
        state, batch = step._abstract_state(config, mesh), step._abstract_batch(config, mesh, 1)
        return flops.count(build.make_train_step(config, mesh, forms).trace(state, batch).jaxpr.jaxpr)

    once = count(step.AS_DEFINED)
    for twice in ({"prior_block_rows": 512}, {"remat": True}, {"space_to_depth_stem": True}):
        assert count(replace(step.AS_DEFINED, **twice)) > once, twice


def test_the_operations_of_a_step_do_not_depend_on_its_forms():
    def count(forms, remat):
        config, mesh = small(), sharding.make_mesh()
        config.system.forms, config.system.remat = forms, remat
        return step.defined_flops(
            config, mesh, step._abstract_state(config, mesh), step._abstract_batch(config, mesh, 1)
        )

    assert count("cpu", "none") == count("tpu", "none") == count("cpu", "blocks")


class Lowered:
    """A program that XLA compiles only without Triton's products, or never."""

    def __init__(self, message):
        self.message, self.tried = message, []

    def compile(self, options):
        self.tried.append(options)
        if "xla_gpu_enable_triton_gemm" not in options:
            raise jax.errors.JaxRuntimeError(self.message)
        return "compiled"


def test_a_program_that_triton_cannot_compile_is_compiled_without_it_and_other_errors_are_not_hidden(
    without_shape_checks,
):
    machine = topologies.parse("h100:1")
    lowered = Lowered("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot.2")
    assert step._compile(lowered, machine) == "compiled"
    assert [len(options) for options in lowered.tried] == [1, 2]
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        step._compile(Lowered("INTERNAL: another error"), machine)
