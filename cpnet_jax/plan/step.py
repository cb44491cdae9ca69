"""The training step of a config, compiled for a slice of TPUs that is not there.

It is the step that training runs, with shapes in place of parameters and data. Needs libtpu, which has to find the
environment that `compiler` sets, in a process that has not used it before.
"""

import re
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.extend.core import Var
from jax.sharding import Mesh
from jaxtyping import PyTree

from cpnet_jax import sharding
from cpnet_jax.config import build
from cpnet_jax.plan import flops
from cpnet_jax.plan.topologies import Topology
from cpnet_jax.training.state import TrainState

MEMORY = ("argument", "output", "alias", "temp", "generated_code")


def compile_step(config: ml_collections.ConfigDict, topology: Topology, images: int) -> dict[str, Any]:
    """Compiles the step for so many images a chip.

    Returns:
      What `compiler.Compiled` holds, but for the versions.
    """
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **topology.options).devices
    mesh = sharding.make_mesh(devices)
    state, batch = _abstract_state(config, mesh), _abstract_batch(config, mesh, images)
    defined = build.make_train_step(_as_defined(config), mesh).trace(state, batch)
    known = {
        "flops": flops.count(defined.jaxpr.jaxpr) // mesh.size,
        "state": {name: _bytes(getattr(state, name)) for name in ("params", "opt_state", "batch_stats")},
        "batch": _bytes(batch) // mesh.size,
        "parameters": _shapes([state.params, _made_of_parameters(config, mesh, state)]),
        "statistics": _shapes(state.batch_stats),
    }
    start = time.monotonic()
    try:
        compiled = build.make_train_step(config, mesh).trace(state, batch).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return known | {"memory": None, "needed": needed, "program": None, "seconds": time.monotonic() - start}
    analysis = compiled.memory_analysis()
    memory = {name: getattr(analysis, f"{name}_size_in_bytes") for name in MEMORY}
    seconds = time.monotonic() - start
    return known | {"memory": memory, "needed": None, "program": compiled.as_text(), "seconds": seconds}


def _as_defined(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The network without what is computed twice to save memory, without zeros in kernels and covariances: no
    work that anyone asked for."""
    config = config.copy_and_resolve_references()
    config.model.stem_impl = "plain"
    config.model.norm_impl = "plain"
    config.system.remat = "none"
    config.model.prior_impl = "dense"
    return config


def _made_of_parameters(config: ml_collections.ConfigDict, mesh: Mesh, state: TrainState) -> list[jax.ShapeDtypeStruct]:
    """What the network makes of its parameters alone, such as kernels in another order: a chip may have the gradient of
    these summed instead."""
    model = build.make_model(config, for_tpus=sharding.is_on_tpus(mesh))
    images = jax.ShapeDtypeStruct((1, *config.data.crop_size, 3), jnp.float32)

    def apply(params: PyTree, batch_stats: PyTree, images: jax.Array) -> PyTree:
        return model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)

    jaxpr = jax.make_jaxpr(apply)(state.params, state.batch_stats, images).jaxpr
    made = set(jaxpr.invars[: len(jax.tree.leaves(state.params))])
    for equation in jaxpr.eqns:
        variables = {variable for variable in equation.invars if isinstance(variable, Var)} - {*jaxpr.constvars}
        # Broadcast, they are on their way to an activation's shape.
        if variables and variables <= made and equation.primitive.name != "broadcast_in_dim":
            made.update(equation.outvars)
    return [variable.aval for variable in made]


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
    """What a step would need, where the compiler's error says that the chip has not as much; else None.

    The compiler finds out at two places, and says it in two ways.
    """
    match = re.search(
        r"Ran out of memory (?:in memory space|on) hbm.*?(?:Used |\()([\d.]+)([KMG])", message, re.I | re.S
    )
    return int(float(match[1]) * 1024 ** (1 + "KMG".index(match[2]))) if match else None
