"""Measures time and memory of the context prior with its affinity loss, forward and backward.

    python benchmarks/context_prior.py [--cases=3600x2,4096x2,9216x2,16384x1,32768x1] [--rounds=3] [--channels=512]
        [--ways=torch,compiled,dense,blocks,two-passes,pairs] [--bfloat16]

Each case is positions x images of aggregated features. Measured are the 1x1 convolution, BatchNorm, sigmoid, both
contexts, the affinity loss, and the gradients of features and parameters.

- torch, compiled: the release's maths in PyTorch, with its ten arrays of positions x positions per image; eager, and by
  torch.compile, which needs a C++ compiler.
- dense, blocks, blocks:1024: cpnet_jax with all rows of the prior at once, and by blocks of 512 or 1024 rows as in
  training.
- two-passes: blocks, but with contexts and loss computed separately, as without `targets` (see `models.CPNet`).
- pairs: the prior that compares positions (`models.context_prior.PairPrior`), by blocks as in training.

Features are float32, or bfloat16 with --bfloat16 (PyTorch: autocast). Each measurement runs in its own process, after
one warm-up; the ways alternate, and medians over the rounds are shown. All losses must agree, except that of pairs,
which is another function. Cases that would probably exceed the free memory are left out. Prints one table and one JSON
line.

On CPUs (Linux) the time is that of one run, and CPU seconds are summed over threads. Memory is the process's peak
beyond its libraries and the inputs. On accelerators the time is the median of ten runs, and memory is that of the
arrays that the program allocates beside its inputs: by the compiler for JAX, by the allocator's peak for PyTorch.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 9
# Approximate number of arrays of positions x positions x images at the peak.
ARRAYS = {"torch": 10, "compiled": 10, "dense": 10, "blocks": 0, "two-passes": 0, "pairs": 0}
REFERENCE = "blocks"
GIGABYTE, MEGABYTE = 1e9, 1e6
# Relative, between the losses; by --bfloat16.
TOLERANCE = {False: 1e-4, True: 2e-2}
RUNS_ON_ACCELERATORS = 10

# Runs forward and backward once; returns the loss.
Run = Callable[[], float]
# Returns the bytes that a run allocates on an accelerator beside its inputs.
Memory = Callable[[], int]


def make_inputs(positions: int, images: int, channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.standard_normal((images, positions, channels), np.float32),
        "kernel": rng.standard_normal((channels, positions), np.float32) / np.float32(channels**0.5),
        "labels": rng.integers(0, CLASSES, (images, positions), np.int32),
    }


# --- cpnet_jax --------------------------------------------------------------------------------------------------------


def ours(inputs: dict[str, np.ndarray], way: str, *, bfloat16: bool) -> tuple[Run, Memory]:
    import jax
    import jax.numpy as jnp

    from cpnet_jax import losses
    from cpnet_jax.models.context_prior import PairPrior, PositionPrior
    from cpnet_jax.models.forms import BLOCK_ROWS

    positions = inputs["features"].shape[1]
    way, _, rows = way.partition(":")
    block_rows = None if way == "dense" else int(rows or BLOCK_ROWS)
    layer = PairPrior(block_rows=block_rows) if way == "pairs" else PositionPrior(positions, block_rows)
    features = jnp.asarray(inputs["features"], jnp.bfloat16 if bfloat16 else jnp.float32)
    variables = layer.init(jax.random.key(0), features[:1, :1], train=False)

    def loss(params: dict[str, Any], features: Any, labels: Any) -> Any:
        prior, _ = layer.apply(variables | {"params": params}, features, train=True, mutable=["batch_stats"])
        if way == "two-passes":
            contexts = prior.contexts(features)
        else:
            targets = losses.AffinityTargets(labels)
            contexts, sums = prior.contexts_and_row_sums(features, targets)
            prior = prior.replace(known=(targets, sums))
        return losses.affinity_loss(prior, labels).total + sum((context**2).mean() for context in contexts)

    params = variables["params"] | ({} if way == "pairs" else {"kernel": inputs["kernel"]})
    arrays = jax.device_put((params, features, inputs["labels"]))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arrays).compile()
    analysis = compiled.memory_analysis()
    needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return lambda: float(jax.block_until_ready(compiled(*arrays))[0]), lambda: needed


# --- the release's maths in PyTorch -----------------------------------------------------------------------------------


def theirs(inputs: dict[str, np.ndarray], way: str, *, bfloat16: bool) -> tuple[Run, Memory]:
    import torch
    import torch.nn.functional as F
    from torch_losses import affinity_loss

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # As JAX's default on GPUs.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    images, positions, channels = inputs["features"].shape
    features = torch.tensor(inputs["features"]).transpose(1, 2).reshape(images, channels, positions, 1)
    features = features.to(device, torch.bfloat16 if bfloat16 else torch.float32).contiguous().requires_grad_()
    conv = torch.nn.Conv2d(channels, positions, 1, bias=False)
    conv.weight = torch.nn.Parameter(torch.tensor(inputs["kernel"].T.copy())[:, :, None, None])
    conv, norm = conv.to(device), torch.nn.BatchNorm2d(positions).to(device)
    labels = torch.tensor(inputs["labels"], device=device).long()

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return autocast_loss()

    def autocast_loss() -> torch.Tensor:
        prior = torch.sigmoid(norm(conv(features))).reshape(images, positions, positions).transpose(1, 2)
        values = features.reshape(images, channels, positions).transpose(1, 2)
        intra = torch.bmm(prior, values) / positions
        inter = torch.bmm(1 - prior, values) / positions

        one_hot = F.one_hot(labels, CLASSES).float()
        ideal = torch.bmm(one_hot, one_hot.transpose(1, 2))
        # Autocast refuses the cross entropy of probabilities, so that the loss is in float32, as in the release.
        with torch.autocast(device.type, enabled=False):
            return affinity_loss(prior.float(), ideal.float()) + intra.square().mean() + inter.square().mean()

    forward = torch.compile(loss) if way == "compiled" else loss
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0

    def run() -> float:
        for tensor in (features, *conv.parameters(), *norm.parameters()):
            tensor.grad = None
        value = forward()
        value.backward()
        return float(value.detach())

    return run, lambda: torch.cuda.max_memory_allocated() - before


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(way: str, positions: int, images: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures in this process: CPU and wall seconds, bytes, and the loss."""
    inputs = make_inputs(positions, images, arguments.channels)
    side = theirs if way in ("torch", "compiled") else ours
    run, on_device = side(inputs, way, bfloat16=arguments.bfloat16)
    before = memory("VmRSS")
    run()
    if not arguments.on_cpu:
        timed = [_timed(run) for _ in range(RUNS_ON_ACCELERATORS)]
        return {name: statistics.median(one[name] for one in timed) for name in timed[0]} | {"bytes": on_device()}
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    return _timed(run) | {"bytes": memory("VmHWM") - before}


def _timed(run: Run) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    loss = run()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "loss": loss}


def memory(field: str, file: str = "/proc/self/status") -> int:
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", Path(file).read_text(), re.M)[1])


def in_own_process(way: str, positions: int, images: int, arguments: argparse.Namespace) -> dict[str, float] | str:
    """Measures in a new process; returns the figures, or the reason why there are none."""
    needed = ARRAYS[way.partition(":")[0]] * 4 * positions**2 * images
    free = memory("MemAvailable", "/proc/meminfo")
    if arguments.on_cpu and needed > free:
        return f"left out: needs about {needed / GIGABYTE:.0f} GB, {free / GIGABYTE:.0f} are free"
    options = [f"--channels={arguments.channels}"]
    options += ["--bfloat16"] * arguments.bfloat16 + ["--on-cpu"] * arguments.on_cpu
    command = [sys.executable, __file__, f"--one={positions}x{images}", f"--ways={way}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"failed with status {done.returncode}: {done.stderr.strip()[-80:]!r}"
    return json.loads(done.stdout.splitlines()[-1])


def compare(positions: int, images: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of each way, or the reason why there are none."""
    ways = arguments.ways.split(",")
    rounds = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            if not any(isinstance(found, str) for found in rounds[way]):
                rounds[way].append(in_own_process(way, positions, images, arguments))
    found = {}
    for way, measured in rounds.items():
        reasons = [one for one in measured if isinstance(one, str)]
        if reasons:
            found[way] = reasons[0]
        else:
            found[way] = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    return found


def time_of(on_cpu: bool) -> str:
    """The time that is compared: CPU seconds, which other programs hardly change, or that on an accelerator."""
    return "cpu" if on_cpu else "wall"


def report(case: str, found: dict[str, Any], on_cpu: bool) -> None:
    reference = found.get(REFERENCE)
    for way, figures in found.items():
        if isinstance(figures, str):
            print(f"| {case} | {way} | {figures} | | | | |", flush=True)
            continue
        ratios = " | "
        if way != REFERENCE and isinstance(reference, dict):
            ratios = " | ".join(f"{figures[name] / reference[name]:.1f}x" for name in (time_of(on_cpu), "bytes"))
        cells = f"{figures['cpu']:.3f} | {figures['wall']:.4f} | {figures['bytes'] / MEGABYTE:.0f} | {ratios}"
        print(f"| {case} | {way} | {cells} |", flush=True)


def default_backend() -> str:
    """Asks a new process, since a process that has used an accelerator keeps its memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program if a case or way is malformed."""
    for case in arguments.cases.split(","):
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", case):
            parser.error(f"--cases has {case!r}: use positions x images, for example 4096x2,9216x2")
    for way in arguments.ways.split(","):
        if not re.fullmatch(rf"({'|'.join(ARRAYS)})|(blocks|two-passes|pairs):[1-9]\d*", way):
            parser.error(f"--ways has {way!r}: choose from {','.join(ARRAYS)},blocks:ROWS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="3600x2,4096x2,9216x2,16384x1,32768x1", help="positions x images")
    parser.add_argument("--ways", default=",".join(ARRAYS))
    parser.add_argument("--rounds", type=_count, default=3)
    parser.add_argument("--channels", type=_count, default=512)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, measured in one way in this process
    parser.add_argument("--on-cpu", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.ways, *map(int, arguments.one.split("x")), arguments)))
        return
    check(arguments, parser)
    arguments.on_cpu = default_backend() == "cpu"
    compared = "CPU" if arguments.on_cpu else "time"
    titles = "positions x images", "way", "CPU s", "wall s", "MB", f"{compared} of {REFERENCE}", f"MB of {REFERENCE}"
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    found = {}
    for case in arguments.cases.split(","):
        found[case] = compare(*map(int, case.split("x")), arguments)
        report(case, found[case], arguments.on_cpu)
    print(json.dumps({"benchmark": "context_prior", **vars(arguments), "results": found}))
    for case, ways in found.items():
        same = {way: figures for way, figures in ways.items() if way.partition(":")[0] != "pairs"}
        values = [figures["loss"] for figures in same.values() if isinstance(figures, dict)]
        if values and max(values) - min(values) > TOLERANCE[arguments.bfloat16] * max(values):
            sys.exit(f"error: the losses of {case} are {values}: they should be equal")


if __name__ == "__main__":
    main()
