"""Compiles a config's training step for TPUs or GPUs; needs none of them.

It is the step that training runs, with shapes in place of parameters and data. Needs the platform's compiler in a new
process, with the environment that `compiler` sets.
"""

import re
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.extend.core import Var
from jax.sharding import Mesh
from jax.stages import Lowered
from jaxtyping import PyTree

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.models import Forms
from cpnet_jax.plan import flops
from cpnet_jax.plan.gpus import Machine
from cpnet_jax.plan.topologies import Topology
from cpnet_jax.training.state import TrainState

# The forms whose operations count as useful work: nothing is computed twice to save memory, and no kernels or
# covariances are filled with zeros.
AS_DEFINED = Forms(prior_block_rows=None)
MEMORY = ("argument", "output", "alias", "temp", "generated_code")
# Autotuning would time kernels on a GPU.
GPU_OPTIONS: dict[str, bool | str] = {"xla_gpu_autotune_level": "0"}
NO_TRITON = {"xla_gpu_enable_triton_gemm": False}


def compile_step(config: ml_collections.ConfigDict, topology: Topology | Machine, images: int) -> dict[str, Any]:
    """Compiles the step for a number of images per chip; returns the fields of `compiler.Compiled`, except images."""
    mesh = sharding.make_mesh(topology.devices())
    state, batch = _abstract_state(config, mesh), _abstract_batch(config, mesh, images)
    figures = {
        "flops": defined_flops(config, mesh, state, batch) // mesh.size,
        "state": {name: _bytes(getattr(state, name)) for name in ("params", "opt_state", "batch_stats")},
        "batch": _bytes(batch) // mesh.size,
        "parameters": _shapes([state.params, _computed_from_parameters(config, mesh, state)]),
        "statistics": _shapes(state.batch_stats),
    }
    start = time.monotonic()
    try:
        compiled = _compile(build.make_train_step(config, mesh).trace(state, batch).lower(), topology)
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return figures | {"memory": None, "needed": needed, "program": None, "seconds": time.monotonic() - start}
    analysis = compiled.memory_analysis()
    memory = {name: getattr(analysis, f"{name}_size_in_bytes") for name in MEMORY}
    seconds = time.monotonic() - start
    if (needed := total_bytes(memory)) > topology.chip.room:  # XLA compiles programs for GPUs that do not fit
        return figures | {"memory": None, "needed": needed, "program": None, "seconds": seconds}
    return figures | {"memory": memory, "needed": None, "program": compiled.as_text(), "seconds": seconds}


def _compile(lowered: Lowered, topology: Topology | Machine) -> jax.stages.Compiled:
    if topology.platform != "cuda":
        return lowered.compile()
    try:
        return lowered.compile(GPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        # A fault of XLA with autotuning off: docs/lab_notes/gpu_step.md.
        if "output tile sizes" not in str(error):
            raise
        return lowered.compile(GPU_OPTIONS | NO_TRITON)


def total_bytes(memory: dict[str, int]) -> int:
    """Bytes of a device's memory that a step takes, from those of `MEMORY`; aliased outputs reuse an argument's."""
    return memory["argument"] + memory["output"] - memory["alias"] + memory["temp"] + memory["generated_code"]


def defined_flops(config: ml_collections.ConfigDict, mesh: Mesh, state: TrainState, batch: PyTree) -> int:
    """Operations of the step as the network is defined, in whatever forms it is computed."""
    defined = build.make_train_step(config, mesh, AS_DEFINED).trace(state, batch)
    return flops.count(defined.jaxpr.jaxpr)


def _computed_from_parameters(
    config: ml_collections.ConfigDict, mesh: Mesh, state: TrainState
) -> list[jax.ShapeDtypeStruct]:
    """Shapes of arrays that the network computes from parameters only, such as reordered kernels.

    Chips may all-reduce the gradients of these instead of the parameters' own.
    """
    model = build.make_model(config, build.training_forms(config, mesh))
    images = jax.ShapeDtypeStruct((1, *config.data.crop_size, 3), jnp.float32)

    def apply(params: PyTree, batch_stats: PyTree, images: jax.Array) -> PyTree:
        return model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)

    jaxpr = jax.make_jaxpr(apply)(state.params, state.batch_stats, images).jaxpr
    computed = set(jaxpr.invars[: len(jax.tree.leaves(state.params))])
    for equation in jaxpr.eqns:
        variables = {variable for variable in equation.invars if isinstance(variable, Var)} - {*jaxpr.constvars}
        # A broadcast leads to the shape of an activation.
        if variables and variables <= computed and equation.primitive.name != "broadcast_in_dim":
            computed.update(equation.outvars)
    return [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in computed]


def _abstract_state(config: ml_collections.ConfigDict, mesh: Mesh) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)),
        jax.eval_shape(build.make_create_state(config)),
    )


def _abstract_batch(config: ml_collections.ConfigDict, mesh: Mesh, images: int) -> PyTree:
    shape = (images * mesh.size, *config.data.crop_size)
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.uint8, sharding=sharding.split(mesh))
    return {"image": array((*shape, 3)), "label": array(shape)}


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _shapes(tree: PyTree) -> list[list[int]]:
    return [list(shape) for shape in sorted({leaf.shape for leaf in jax.tree.leaves(tree)})]


def needed_bytes(message: str) -> int | None:
    """Bytes that a step needs, from the compiler's out-of-memory error, which has two forms; None for other errors."""
    match = re.search(
        r"Ran out of memory (?:in memory space|on) hbm.*?(?:Used |\()([\d.]+)([KMG])", message, re.I | re.S
    )
    return int(float(match[1]) * 1024 ** (1 + "KMG".index(match[2]))) if match else None
