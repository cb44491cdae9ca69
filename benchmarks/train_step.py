"""Measures time and memory of a training step, against the same network in PyTorch.

    python benchmarks/train_step.py [--config=configs/quickstart.py] [--depth=18,50] [--crop=128,256] [--batch_size=8]
        [--bfloat16] [--rounds=5] [--steps=4] [--peers=eager,compiled] [--peak_tflops=989]

A step is normalisation of a batch of uint8 images, network, all losses, gradients and SGD. All sides start from the
same parameters, without dropout, so that their first losses must agree. They run in separate processes; medians over
the rounds are shown. On CPUs, which other programs use as well, the sides alternate every few steps. On accelerators
each side runs alone and ends before the next one starts, so that it has the device's whole memory. Each depth is
measured at each crop, one after the other.

The PyTorch side is the network of the parity tests, with channels_last and, with --bfloat16, autocast; eager, and by
torch.compile if a C++ compiler is installed. The default config is configs/ade20k.py at crop 512 in bfloat16 on
accelerators, and configs/quickstart.py on CPUs. CPUs also run our network without Winograd's convolutions.

Memory: on accelerators the peak of arrays on the device, on CPUs the peak of the process. Start: seconds from the start
of the process to the end of its first step, most of them imports and compilation.
Of peak: FLOP/s as a share of --peak_tflops (known for some devices). The FLOPs are those of the network's convolutions
and matrix products, forward and backward, counted in the JAX program and used for all sides.

Prints one table and one JSON line for each depth and crop.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OURS, DIRECT, EAGER, COMPILED = "cpnet_jax", "cpnet_jax, no Winograd", "PyTorch", "PyTorch, compiled"
# The arguments that define a step.
STEP_ARGUMENTS = ("config", "depth", "crop", "batch_size")
# Relative, of the first loss; by --bfloat16.
TOLERANCE = {False: 1e-4, True: 2e-2}


def get_config(arguments: argparse.Namespace) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location("config", arguments.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.model.depth = arguments.depth or config.model.depth
    config.batch_size = arguments.batch_size or config.batch_size
    config.data.crop_size = (arguments.crop,) * 2 if arguments.crop else config.data.crop_size
    config.model.bfloat16 = arguments.bfloat16
    config.model.dropout = 0.0
    return config


def make_batch(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Random images, and labels in patches of 32 pixels, some of them ignored.

    A crop of one patch would have rows of the prior that our logged loss leaves out (`losses.ReadableLoss`).
    """
    rng = np.random.default_rng(0)
    height, width = config.data.crop_size
    patches = rng.integers(0, config.data.num_classes + 1, (config.batch_size, height // 32 + 1, width // 32 + 1))
    labels = patches.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    labels = np.where(labels == config.data.num_classes, 255, labels)
    images = rng.integers(0, 256, (config.batch_size, height, width, 3))
    return {"image": images.astype(np.uint8), "label": labels.astype(np.uint8)}


# --- the two sides ----------------------------------------------------------------------------------------------------


def run_jax(config: ml_collections.ConfigDict, parameters: Path) -> Callable[[], float]:
    """Saves the initial parameters by torch's names; returns a function that takes a step and returns the loss."""
    import jax
    from parity import transfer

    from cpnet_jax import sharding
    from cpnet_jax.config import build
    from cpnet_jax.plan import flops
    from cpnet_jax.runtime import memory
    from cpnet_jax.training.state import create_state

    memory.return_after_compilations()  # as main.py does
    mesh = sharding.make_mesh(jax.devices()[:1])
    create = partial(create_state, build.make_model(config), build.make_optimizer(config))
    state = jax.jit(partial(create, tuple(config.data.crop_size), 0), out_shardings=sharding.replicated(mesh))()
    np.savez(parameters, **transfer.as_torch(state.params, config.model.stem))
    batch = jax.device_put(make_batch(config), sharding.split(mesh))
    step = build.make_train_step(config, mesh)
    counted = flops.count(step.trace(state, batch).jaxpr.jaxpr)
    print(json.dumps({"flops": counted, "device": jax.devices()[0].device_kind}), flush=True)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return run


def run_jax_directly(config: ml_collections.ConfigDict, parameters: Path) -> Callable[[], float]:
    """`run_jax` without Winograd's convolutions."""
    from cpnet_jax.models.forms import winograd

    winograd.WORTHWHILE = math.inf
    return run_jax(config, parameters.with_name("unused.npz"))


def run_torch(config: ml_collections.ConfigDict, parameters: Path, *, compiled: bool) -> Callable[[], float]:
    """Loads the saved parameters; returns a function that takes a step and returns the loss."""
    import torch
    from parity.torch_cpnet import CPNet
    from torch_losses import objective

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    height, width = config.data.crop_size
    network = CPNet(
        config.data.num_classes,
        config.model.depth,
        (height // 8, width // 8),
        config.model.stem,
        config.model.channels,
        config.model.aux_channels,
        config.model.aggregation_kernel,
        config.model.dropout,
    )
    loaded = {name: torch.tensor(value) for name, value in np.load(parameters).items()}
    assert not network.load_state_dict(loaded, strict=False).unexpected_keys
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.optimizer.base_lr,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    batch = {name: torch.tensor(value, device=device) for name, value in make_batch(config).items()}
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (config.data.mean, config.data.std))

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = (images.permute(0, 3, 1, 2) - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=config.model.bfloat16):
            output = network(images.contiguous(memory_format=torch.channels_last))
        return objective(output, labels.long(), aux_weight=config.loss.aux_weight)

    forward = torch.compile(loss_of) if compiled else loss_of

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(batch["image"], batch["label"])
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


RUNS = {
    OURS: run_jax,
    DIRECT: run_jax_directly,
    EAGER: partial(run_torch, compiled=False),
    COMPILED: partial(run_torch, compiled=True),
}


def known_peak(device_kind: str) -> float | None:
    """TFLOP/s in bfloat16, by JAX's name of the device."""
    from cpnet_jax.plan.gpus import CARDS  # imports JAX, which the processes of PyTorch must not

    return next((card.peak / 1e12 for card in CARDS.values() if card.kind == device_kind), None)


def peak_memory(name: str) -> int:
    """Peak memory in bytes."""
    if name in (OURS, DIRECT):
        import jax

        on_device = jax.devices()[0].memory_stats()
        if on_device:
            return on_device["peak_bytes_in_use"]
    else:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def work(arguments: argparse.Namespace) -> None:
    """Runs one side: reads a number of steps per line of standard input, and prints their figures as one line."""
    run = RUNS[arguments.side](get_config(arguments), Path(arguments.parameters))
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [run() for _ in range(int(line))]
        figures = {
            "seconds": (time.perf_counter() - wall) / len(losses),
            "cpu_seconds": (time.process_time() - cpu) / len(losses),
            "loss": losses[0],
            "bytes": peak_memory(arguments.side),
        }
        print(json.dumps(figures), flush=True)


# --- the processes ----------------------------------------------------------------------------------------------------


class EndedEarly(Exception):
    """A side's process ended without a result; it has said why."""


class Side:
    """A process that takes steps on request; its first step compiles.

    Attributes:
      known: of cpnet_jax: the FLOPs of a step, and the device's name.
      first: figures of the first step.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, parameters: Path) -> None:
        given = [f"--{key}={value}" for key, value in vars(arguments).items() if key in STEP_ARGUMENTS and value]
        given += ["--bfloat16"] * arguments.bfloat16
        command = [sys.executable, __file__, f"--side={name}", f"--parameters={parameters}", *given]
        began = time.perf_counter()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.known = self._answer() if name in (OURS, DIRECT) else {}
        self.first = self.steps(1)
        self.first["start"] = time.perf_counter() - began

    def steps(self, count: int) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which `_answer` notices
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise EndedEarly
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(arguments: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Returns the figures of every side in every round, and what `Side.known` says."""
    on_cpu = default_backend() == "cpu"
    names = [OURS, *([DIRECT] if on_cpu else []), *arguments.peers]
    with tempfile.TemporaryDirectory() as folder:
        start = partial(Side, arguments=arguments, parameters=Path(folder, "parameters.npz"))
        return (_in_turns if on_cpu else _one_after_the_other)(names, start, arguments)


def _in_turns(
    names: list[str], start: Callable[[str], Side], arguments: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    sides = {name: start(name) for name in names}
    _compare_losses(sides, arguments)
    for side in sides.values():
        side.steps(2)  # further compilation and tuning
    rounds = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            rounds[name].append(side.first | side.steps(arguments.steps))
    for side in sides.values():
        side.close()
    return rounds, sides[OURS].known


def _one_after_the_other(
    names: list[str], start: Callable[[str], Side], arguments: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """A peer that fails, for example because the device's memory is full, is left out."""
    sides, rounds = {}, {}
    for name in names:
        try:
            side = start(name)
            side.steps(2)
            rounds[name] = [side.first | side.steps(arguments.steps) for _ in range(arguments.rounds)]
        except EndedEarly:
            if name == OURS:
                raise
            print(f"Note: {name} ended without a result, see its output above", file=sys.stderr)
            continue
        side.close()
        sides[name] = side
    _compare_losses(sides, arguments)
    return rounds, sides[OURS].known


def _compare_losses(sides: dict[str, Side], arguments: argparse.Namespace) -> None:
    ours = sides[OURS].first["loss"]
    for name, side in sides.items():
        theirs = side.first["loss"]
        if abs(theirs / ours - 1) > TOLERANCE[arguments.bfloat16]:
            raise SystemExit(f"the first loss of {name} is {theirs}, that of cpnet_jax {ours}: they must be equal")


def report(rounds: dict[str, list[dict[str, Any]]], known: dict[str, Any], arguments: argparse.Namespace) -> None:
    batch = get_config(arguments).batch_size
    peak = arguments.peak_tflops or known_peak(known["device"])
    results = {}
    for name, figures in rounds.items():
        median = {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
        results[name] = {
            "seconds": median["seconds"],
            "spread": [fold(figure["seconds"] for figure in figures) for fold in (min, max)],
            "cpu_seconds": median["cpu_seconds"],
            "images_per_second": batch / median["seconds"],
            "bytes": figures[-1]["bytes"],
            "start_seconds": median["start"],
            "of_peak": known["flops"] / median["seconds"] / peak / 1e12 if peak else None,
        }
    ours, config = results[OURS], get_config(arguments)
    print(f"ResNet-{config.model.depth}, crop {config.data.crop_size[0]}, batch {batch}\n", flush=True)
    titles = "ms/step", "(min, max)", "CPU s/step", "images/s", "GB", "of peak", "start, s"
    print(f"| | {' | '.join(titles)} | time, ours = 1 | memory, ours = 1 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, result in results.items():
        least, most = (1e3 * seconds for seconds in result["spread"])
        print(
            f"| {name} | {1e3 * result['seconds']:.1f} | {least:.1f}, {most:.1f} | {result['cpu_seconds']:.2f} "
            f"| {result['images_per_second']:.1f} | {result['bytes'] / 1e9:.2f} "
            f"| {format(result['of_peak'], '.0%') if peak else ''} | {result['start_seconds']:.0f} "
            f"| {result['seconds'] / ours['seconds']:.2f} | {result['bytes'] / ours['bytes']:.2f} |"
        )
    what = {key: value for key, value in vars(arguments).items() if key not in ("side", "parameters")}
    print(json.dumps({"benchmark": "train_step", **what, **known, "results": results}))


def default_backend() -> str:
    """Asks a new process, since a process that has used an accelerator keeps its memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _peers(text: str) -> list[str]:
    names = {"eager": EAGER, "compiled": COMPILED}
    if unknown := set(filter(None, text.split(","))) - names.keys():
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is not a peer: use eager, compiled, both or none")
    has_compiler = shutil.which("c++") or shutil.which("g++")
    return [name for peer, name in names.items() if peer in text and (name != COMPILED or has_compiler)]


def settings(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments for each pair of depth and crop; 0 stands for the config's."""
    pairs = itertools.product(arguments.depth, arguments.crop)
    return [argparse.Namespace(**{**vars(arguments), "depth": depth, "crop": crop}) for depth, crop in pairs]


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program if the config does not exist or cannot work."""
    from cpnet_jax.config.check import check_config
    from cpnet_jax.errors import UserError

    if not Path(arguments.config).is_file():
        parser.error(f"--config={arguments.config} does not exist: choose a file in configs/")
    try:
        check_config(get_config(arguments))
    except UserError as error:
        parser.error(str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="config file; default: configs/ade20k.py, on CPUs configs/quickstart.py")
    parser.add_argument("--depth", type=_counts, default=[0], help="of the ResNet, instead of the config's")
    parser.add_argument("--crop", type=_counts, default=[0], help="side in pixels, instead of the config's")
    parser.add_argument("--batch_size", type=_count, help="instead of the config's")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--steps", type=_count, default=4, help="per side and round")
    parser.add_argument("--peak_tflops", type=float, help="of the device")
    parser.add_argument("--peers", type=_peers, default="eager,compiled", help="of PyTorch, separated by commas")
    parser.add_argument("--side", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--parameters", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path += [str(ROOT), str(ROOT / "tests")]  # the configs, and the peer
    if arguments.side:
        work(*settings(arguments))
        return
    if not arguments.config and default_backend() == "cpu":
        arguments.config = str(ROOT / "configs/quickstart.py")
    elif not arguments.config:
        arguments.config, arguments.crop, arguments.bfloat16 = str(ROOT / "configs/ade20k.py"), [512], True
    for setting in settings(arguments):
        check(setting, parser)
    for setting in settings(arguments):
        try:
            report(*measure(setting), setting)
        except EndedEarly:
            sys.exit("error: cpnet_jax's process ended without a result, see its output above")


if __name__ == "__main__":
    main()
