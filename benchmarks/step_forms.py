"""Measures what each form of the training step, and each option of its compiler, is worth on this device.

    python benchmarks/step_forms.py --variant=NAME [--config=configs/ade20k.py] [--depth=50] [--crop=512]
        [--batch_size=16] [--rounds=5] [--steps=4] [--tiny]

A variant differs in one thing from "default", the step that `--mode=train` takes on this platform. One process measures
one variant, since compiler options are read once. Prints one JSON line: the median time of a step, the memory that the
compiler allocates, the seconds of compilation, and the step's time by part of the network: as a profile measures it,
and on GPUs also as planned (docs/plan.md) from the program that ran.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the configs and the benchmarks

# Variant -> fields of `models.Forms`.
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "stem on blocks of pixels": {"space_to_depth_stem": True},
    "folded norms": {"folded_norm": True},
    "prior in blocks of 256 rows": {"prior_block_rows": 256},
    "prior in blocks of 1024 rows": {"prior_block_rows": 1024},
    "prior in blocks of 2048 rows": {"prior_block_rows": 2048},
    "prior in one block": {"whole_prior_up_to": 2**30},
    "prior as N x N arrays": {"prior_block_rows": None},
    "recomputed blocks": {"remat": True},
}
# Variant -> options of XLA for GPUs.
OPTIONS = {
    "without Triton's products": "--xla_gpu_enable_triton_gemm=false",
    "without autotuning": "--xla_gpu_autotune_level=0",
    "without command buffers": "--xla_gpu_enable_command_buffer=",
    "latency-hiding scheduler": "--xla_gpu_enable_latency_hiding_scheduler=true",
}
VARIANTS = (*FORMS, *OPTIONS)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import jax

    from benchmarks import parts, train_step
    from cpnet_jax import sharding
    from cpnet_jax.config import build
    from cpnet_jax.plan.hlo import Program
    from cpnet_jax.training.state import create_state

    config = train_step.get_config(arguments)
    if arguments.tiny:
        config.model.channels = config.model.aux_channels = 16
    mesh = sharding.make_mesh(jax.devices()[:1])
    forms = dataclasses.replace(build.training_forms(config, mesh), **FORMS.get(arguments.variant, {}))
    create = partial(create_state, build.make_model(config), build.make_optimizer(config))
    state = jax.jit(partial(create, tuple(config.data.crop_size), 0), out_shardings=sharding.replicated(mesh))()
    batch = jax.device_put(train_step.make_batch(config), sharding.split(mesh))
    began = time.perf_counter()
    step = build.make_train_step(config, mesh, forms).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - began
    seconds, loss = [], 0.0
    for _ in range(arguments.rounds + 1):
        began = time.perf_counter()
        for _ in range(arguments.steps):
            state, metrics = step(state, batch)
        loss = float(metrics["loss"])
        seconds.append((time.perf_counter() - began) / arguments.steps)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    analysis, program, device = step.memory_analysis(), Program(step.as_text()), jax.devices()[0].device_kind
    return {
        "device": device,
        "seconds": statistics.median(seconds[1:]),
        "spread": [min(seconds[1:]), max(seconds[1:])],
        "bytes": analysis.temp_size_in_bytes + analysis.argument_size_in_bytes,
        "compile_seconds": compile_seconds,
        "loss": loss,
        "measured_parts": parts.measured(program, run, times=arguments.steps),
        "planned_parts": parts.planned(program, device),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--config", default=str(ROOT / "configs/ade20k.py"))
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a narrow network in float32, to test this program")
    arguments = parser.parse_args()
    arguments.bfloat16 = not arguments.tiny
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.variant in OPTIONS:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OPTIONS[arguments.variant]}"
    print(json.dumps({"benchmark": "step_forms", "variant": arguments.variant, **measure(arguments)}))


if __name__ == "__main__":
    main()
