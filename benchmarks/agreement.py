"""Compares a training step and the affinity loss on an accelerator with the same on this machine's CPU.

    python benchmarks/agreement.py [--tiny]

- step: one step of a small CPNet-R18 from the same parameters on the same batch. Compared are the loss, its terms and
  the gradients of all parameters.
- prior: the context prior's logits Z = X W + b with the affinity loss, whole and by blocks of rows, with the gradients
  of X and W.

Both in float32, with the highest precision of matrix products on both sides, and in bfloat16. Differences are relative:
of a scalar |a - b| / |b|, of all gradients together the norm of the difference over the norm. In bfloat16 gradients are
shown but not checked, since two orders of rounding already differ by several percent.

Without an accelerator, the CPU's results are compared with themselves, which only shows that this program runs. Prints
a table and one JSON line; the exit status is 1 if a difference exceeds its tolerance.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, PyTree

from cpnet_jax import losses, sharding
from cpnet_jax.config import build, experiments
from cpnet_jax.models import PriorFactors
from cpnet_jax.training.state import TrainState, create_state

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
CLASSES = 19
# Name of a step -> its kind of context prior.
STEPS = {"step": "positions", "step, prior of pairs": "pairs"}
# device -> the values that are compared, and the gradients
Results = tuple[dict[str, Array], PyTree]


def settings(kind: str, side: int, *, bfloat16: bool) -> ml_collections.ConfigDict:
    config = experiments.default()
    config.data.num_classes, config.data.crop_size = CLASSES, (side, side)
    config.model.depth, config.model.channels, config.model.aux_channels = 18, 32, 16
    config.model.bfloat16, config.model.dropout, config.model.prior = bfloat16, 0.0, kind
    return config


def initial_state(config: ml_collections.ConfigDict) -> TrainState:
    """The state before the first step, in the memory of the host."""
    create = partial(create_state, build.make_model(config), build.make_optimizer(config))
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(jax.jit(partial(create, tuple(config.data.crop_size), 0))())


def step(device: jax.Device, config: ml_collections.ConfigDict, state: TrainState) -> Results:
    side, _ = config.data.crop_size
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, side, side, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, (8, side // 8, side // 8)).astype(np.uint8).repeat(8, 1).repeat(8, 2),
    }
    mesh = sharding.make_mesh([device])
    started = jax.device_put((state, batch), sharding.replicated(mesh))
    after, metrics = build.make_train_step(config, mesh)(*started)
    # After one step, momentum is the gradient plus the weight decay of the same parameters.
    return {name: metrics[name] for name in ("loss", "segmentation", "affinity_unary")}, after.opt_state


def prior(device: jax.Device, *, bfloat16: bool, block_rows: int | None, positions: int) -> Results:
    rng = np.random.default_rng(0)
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    features = jnp.asarray(rng.standard_normal((2, positions, 64)), dtype)
    kernel = jnp.asarray(rng.standard_normal((64, positions)) / 8, jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, (2, positions)), jnp.int32)

    def loss(features: Array, kernel: Array, labels: Array) -> Array:
        factors = PriorFactors(features, kernel, jnp.zeros(positions), block_rows=block_rows)
        contexts = factors.contexts(features)
        return losses.affinity_loss(factors, labels).total + sum((context**2).mean() for context in contexts)

    placed = jax.device_put((features, kernel, labels), device)
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*placed)
    return {"loss": value}, gradients


def relative(ours: PyTree, theirs: PyTree) -> float:
    """Norm of the difference of two pytrees over the norm of the second."""
    flat = [
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]) for tree in (ours, theirs)
    ]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


def compare(run: Callable[[jax.Device], Results]) -> dict[str, float]:
    """The largest relative difference of the values, and that of the gradients."""
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    results = {one: run(one) for one in {device, cpu}}
    (values, gradients), (expected, expected_gradients) = results[device], results[cpu]
    values, expected = jax.device_get((values, expected))
    return {
        "values": max(abs(float(values[name]) / float(expected[name]) - 1) for name in values),
        "gradients": relative(*jax.device_get((gradients, expected_gradients))),
    }


def comparisons(side: int, positions: int) -> dict[tuple[str, str], Callable[[jax.Device], Results]]:
    """Returns (what is compared, its type) -> what computes it on a device."""
    # Parameters are float32, whatever the type of the activations.
    states = {kind: initial_state(settings(kind, side, bfloat16=False)) for kind in STEPS.values()}
    found: dict[tuple[str, str], Callable[[jax.Device], Results]] = {}
    for dtype in TOLERANCE:
        bfloat16 = dtype == "bfloat16"
        for name, kind in STEPS.items():
            found[name, dtype] = partial(step, config=settings(kind, side, bfloat16=bfloat16), state=states[kind])
        for name, block_rows in (("prior, whole", None), ("prior, blocks", positions // 2)):
            found[name, dtype] = partial(prior, bfloat16=bfloat16, block_rows=block_rows, positions=positions)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small arrays, to test this program")
    side, positions = (32, 64) if parser.parse_args().tiny else (96, 1024)
    jax.config.update("jax_default_matmul_precision", "highest")
    chosen = comparisons(side, positions)
    # Nearly all the time is compilation, of which several can run at once.
    with ThreadPoolExecutor() as pool:
        differences = dict(zip(chosen, pool.map(compare, chosen.values()), strict=True))
    found: dict[str, dict[str, Any]] = {}
    print(f"| {jax.devices()[0].device_kind} against CPU | values | gradients | tolerance |\n|---|---|---|---|")
    for (name, dtype), figures in differences.items():
        tolerance = TOLERANCE[dtype]
        within = figures["values"] <= tolerance and (dtype == "bfloat16" or figures["gradients"] <= tolerance)
        found[f"{name}, {dtype}"] = {**figures, "within": within}
        print(f"| {name}, {dtype} | {figures['values']:.1e} | {figures['gradients']:.1e} | {tolerance} |")
    print(json.dumps({"benchmark": "agreement", "device": jax.devices()[0].device_kind, "results": found}))
    sys.exit(not all(result["within"] for result in found.values()))


if __name__ == "__main__":
    main()
