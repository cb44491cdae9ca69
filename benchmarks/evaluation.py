"""Measures speed and memory of a multi-scale evaluation, against a plain evaluator.

    python benchmarks/evaluation.py [--networks=cpnet,linear] [--devices=1] [--images=16] [--rounds=3] [--depth=50]
    python benchmarks/evaluation.py --memory

The protocol is the paper's for ADE20K, five scales and flip, on images with the sizes of ADE20K. The plain evaluator
runs one scale after the other and one window after the other, on one device. It sums probabilities over windows,
resizes them by OpenCV on the host and sums them over scales there. It is measured twice: the windows of a scale are
summed on the host, or on the device as in the authors' evaluator. All evaluators classify the same images with the same
network, compiled before, in alternation, and their results are compared.

- network "cpnet": a CPNet as the options describe it, with random weights.
- network "linear": a linear map of every 8x8 block. It takes almost no time, so that the evaluation itself is measured,
  as if the network ran on a fast accelerator.

--memory measures the peak memory of one image of 2048x1024 pixels with six scales and flip, beyond that in use after
compilation and a small image. On accelerators it is the devices' memory (the maximum over devices), on CPUs the
process's (Linux).

--devices is the number of virtual devices on CPUs, or of accelerators. Prints one table and one JSON line.
"""

import argparse
import contextlib
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from cpnet_jax import sharding
from cpnet_jax.config import experiments
from cpnet_jax.data.catalog import Dataset
from cpnet_jax.data.normalize import normalize
from cpnet_jax.inference.model import TrainedModel
from cpnet_jax.inference.predictor import Predictor
from cpnet_jax.inference.protocol import Protocol
from cpnet_jax.models import CPNet, upsample

OURS, ON_HOST, ON_DEVICE = "cpnet_jax", "one by one, added on the host", "one by one, added on the device"
PAPER = Protocol(scales=(0.5, 0.75, 1.0, 1.5, 1.75), flip=True)
SIX_SCALES = Protocol(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)
ADE20K_SIZES = ((512, 683), (683, 512), (512, 512), (600, 900), (512, 768), (768, 1024), (512, 683), (512, 683))
CITYSCAPES_SIZE, SMALL_SIZE = (1024, 2048), (64, 64)
MEAN, STD = experiments.default().data.mean, experiments.default().data.std
# Share of pixels that must get the same class; if two classes score the same, rounding decides.
LEAST_AGREEMENT = 0.999
# OpenCV 5 resizes images with up to 128 channels.
CHANNELS_AT_ONCE = 75
GIGABYTE = 1e9

Images = list[UInt8[np.ndarray, "h w 3"]]
# (variables, uint8 windows) -> logits at output stride 8
Forward = Callable[[PyTree, UInt8[Array, "b h w 3"]], Float[Array, "b h/8 w/8 k"]]


def pictures(sizes: Iterable[tuple[int, int]], seed: int = 0) -> Images:
    """Images of coloured patches with noise."""
    rng = np.random.default_rng(seed)
    return [_picture(rng, *size) for size in sizes]


def _picture(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    patches = rng.normal(128, 60, (height // 32 + 2, width // 32 + 2, 3))
    smooth = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    forward: Forward
    variables: PyTree
    crop: tuple[int, int]
    classes: int


def cpnet(arguments: argparse.Namespace) -> Network:
    crop = (arguments.crop, arguments.crop)
    model = CPNet(
        arguments.classes,
        depth=arguments.depth,
        prior_size=(crop[0] // 8, crop[1] // 8),
        channels=arguments.channels,
        aux_channels=0,
    )
    variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *crop, 3)), train=False))()
    # With the initial classifier all classes score nearly the same.
    classifier = variables["params"]["head"]["classifier"]
    classifier["kernel"] = classifier["kernel"] * 100

    def forward(variables: PyTree, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        return model.apply(variables, normalize(windows, MEAN, STD), train=False).logits

    return Network(forward, variables, crop, arguments.classes)


def linear(arguments: argparse.Namespace) -> Network:
    kernel = jax.random.normal(jax.random.key(0), (8, 8, 3, arguments.classes)) / 8

    def forward(kernel: PyTree, windows: UInt8[Array, "b h w 3"]) -> Float[Array, "b h/8 w/8 k"]:
        images = normalize(windows, MEAN, STD)
        return jax.lax.conv_general_dilated(images, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return Network(forward, kernel, (arguments.crop, arguments.crop), arguments.classes)


NETWORKS = {"cpnet": cpnet, "linear": linear}


# --- cpnet_jax --------------------------------------------------------------------------------------------------------


def predictor(network: Network, protocol: Protocol, arguments: argparse.Namespace) -> Predictor:
    mesh = Mesh(np.array(jax.devices()[: arguments.devices]), (sharding.DATA_AXIS,))
    variables = jax.device_put(network.variables, sharding.replicated(mesh))
    names = tuple(map(str, range(network.classes)))
    model = TrainedModel(
        dataset=Dataset("made", names, ((0, 0, 0),) * network.classes),
        crop_size=network.crop,
        mean=tuple(MEAN),
        std=tuple(STD),
        logits=partial(jax.jit(network.forward), variables),
    )
    return Predictor(model, mesh, protocol=protocol, batch_size=arguments.batch)


def classified(predictor: Predictor, images: Images) -> Images:
    return [classes for _, classes in predictor.classes({"image": image} for image in images)]


# --- plain evaluators -------------------------------------------------------------------------------------------------


class OneByOne:
    """Evaluates window by window; sums in place, and OpenCV uses several threads."""

    def __init__(self, network: Network, protocol: Protocol) -> None:
        self._crop, self._classes, self._protocol = network.crop, network.classes, protocol
        self._parts = [slice(start, start + CHANNELS_AT_ONCE) for start in range(0, network.classes, CHANNELS_AT_ONCE)]
        self._variables = jax.device_put(network.variables, jax.devices()[0])
        self._network = jax.jit(
            lambda variables, windows: jax.nn.softmax(upsample(network.forward(variables, windows), network.crop))
        )

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        height, width = image.shape[:2]
        total = np.zeros((height, width, self._classes), np.float32)
        for scale in self._protocol.scales:
            size = [int(side * scale + 0.5) for side in (width, height)]
            scores = self._scores(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
            for part in self._parts:
                total[..., part] += cv2.resize(scores[..., part], (width, height), interpolation=cv2.INTER_LINEAR)
        return total.argmax(axis=-1).astype(np.uint8)

    def _scores(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        height, width = image.shape[:2]
        below, right = (max(crop - side, 0) for crop, side in zip(self._crop, (height, width), strict=True))
        fill = np.round(MEAN).tolist()
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)
        scores = self._zeros((*padded.shape[:2], self._classes))
        for top in self._starts(padded.shape[0], self._crop[0]):
            for left in self._starts(padded.shape[1], self._crop[1]):
                window = padded[top : top + self._crop[0], left : left + self._crop[1]]
                scores = self._add(scores, window, top, left)
        return np.asarray(scores)[:height, :width]

    @staticmethod
    def _starts(size: int, crop: int) -> list[int]:
        return [*range(0, size - crop, crop * 2 // 3), size - crop]

    def _zeros(self, shape: tuple[int, int, int]) -> Float[np.ndarray, "h w k"]:
        return np.zeros(shape, np.float32)

    def _add(
        self, scores: Float[np.ndarray, "h w k"], window: UInt8[np.ndarray, "y x 3"], top: int, left: int
    ) -> Float[np.ndarray, "h w k"]:
        place = np.s_[top : top + window.shape[0], left : left + window.shape[1]]
        scores[place] += self._probabilities(window)
        scores[place] += self._probabilities(window[:, ::-1])[:, ::-1]
        return scores

    def _probabilities(self, window: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w k"]:
        return np.asarray(self._network(self._variables, np.ascontiguousarray(window)[None]))[0]


class OneByOneOnDevice(OneByOne):
    """Sums the windows of a scale on the device, and copies only the sum to the host."""

    def __init__(self, network: Network, protocol: Protocol) -> None:
        super().__init__(network, protocol)

        def add(variables: PyTree, scores: Array, window: Array, place: tuple[int, int, int]) -> Array:
            straight, mirrored = (self._network(variables, shown[None])[0] for shown in (window, window[:, ::-1]))
            before = jax.lax.dynamic_slice(scores, place, straight.shape)
            return jax.lax.dynamic_update_slice(scores, before + straight + mirrored[:, ::-1], place)

        self._added = jax.jit(add, donate_argnums=1)

    def _zeros(self, shape: tuple[int, int, int]) -> Float[Array, "h w k"]:
        return jnp.zeros(shape, device=jax.devices()[0])

    def _add(
        self, scores: Float[Array, "h w k"], window: UInt8[np.ndarray, "y x 3"], top: int, left: int
    ) -> Float[Array, "h w k"]:
        return self._added(self._variables, scores, window, (top, left, 0))


# --- measuring --------------------------------------------------------------------------------------------------------


def speed(network: Network, images: Images, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures every evaluator: images/s and speed-up (medians over alternating rounds), and equal pixels."""
    ours = predictor(network, PAPER, arguments)
    ways = {OURS: partial(classified, ours, images)}
    for way, usual in ((ON_HOST, OneByOne), (ON_DEVICE, OneByOneOnDevice)):
        ways[way] = partial(lambda evaluator: [evaluator(image) for image in images], usual(network, PAPER))
    answers = {way: run() for way, run in ways.items()}  # this also compiles
    seconds = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[way].append((time.perf_counter() - began) / len(images))
    return {
        way: {
            "images/s": 1 / statistics.median(spent),
            "ratio": statistics.median(slow / fast for slow, fast in zip(spent, seconds[OURS], strict=True)),
            "agreement": _agreement(answers[OURS], answers[way]),
        }
        for way, spent in seconds.items()
    }


def _agreement(ours: Images, theirs: Images) -> float:
    """Share of pixels with the same class."""
    equal = sum(np.count_nonzero(one == other) for one, other in zip(ours, theirs, strict=True))
    return equal / sum(one.size for one in ours)


def peak_memory(network: Network, arguments: argparse.Namespace) -> float:
    """Peak bytes for a large image, beyond those in use after a small one."""
    ours = predictor(network, SIX_SCALES, arguments)
    classified(ours, pictures([SMALL_SIZE]))
    large = pictures([CITYSCAPES_SIZE])
    gc.collect()
    devices = [device for device in jax.devices()[: arguments.devices] if device.platform != "cpu"]
    before = [device.memory_stats()["bytes_in_use"] for device in devices] or [_resident("VmRSS")]
    _forget_resident_peak()
    classified(ours, large)
    after = [device.memory_stats()["peak_bytes_in_use"] for device in devices] or [_resident("VmHWM")]
    return max(peak - base for base, peak in zip(before, after, strict=True))


def _resident(figure: str) -> int:
    """Memory of this process in bytes: current (VmRSS) or peak (VmHWM)."""
    return 1024 * int(re.search(rf"{figure}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def _forget_resident_peak() -> None:
    # If the kernel refuses, the peak since the start is measured, which is an upper bound.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    arguments = parse()
    networks = {name: NETWORKS[name](arguments) for name in arguments.networks.split(",")}
    measure = report_memory if arguments.memory else report_speed
    found = measure(networks, arguments)
    print(json.dumps({"device": jax.devices()[0].device_kind, **vars(arguments), **found}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--networks", default="cpnet,linear")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--batch", type=int, help="windows per device and batch; default: that of the predictor")
    parser.add_argument("--crop", type=int, default=480)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="per round; default: per device 2 on CPUs, else 16")
    parser.add_argument("--depth", type=int, help="of the ResNet; default: 18 on CPUs, else 50")
    parser.add_argument("--channels", type=int, help="of the heads; default: 64 on CPUs, else 512")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    on_cpu = jax.default_backend() == "cpu"
    for name, cpu, accelerator in (
        ("images", 2 * arguments.devices, 16 * arguments.devices),
        ("depth", 18, 50),
        ("channels", 64, 512),
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, cpu if on_cpu else accelerator)
    if arguments.devices > jax.device_count():
        parser.error(f"--devices is {arguments.devices}, but only {jax.device_count()} are available")
    return arguments


def report_speed(networks: dict[str, Network], arguments: argparse.Namespace) -> dict[str, Any]:
    images = pictures(islice(cycle(ADE20K_SIZES), arguments.images))
    print(f"| network | evaluator | images/s | speed-up of {OURS} | equal pixels |\n|---|---|---|---|---|")
    found = {}
    for name, network in networks.items():
        found[name] = speed(network, images, arguments)
        for way, figures in found[name].items():
            ratio = "" if way == OURS else f"{figures['ratio']:.2f}x"
            print(f"| {name} | {way} | {figures['images/s']:.3g} | {ratio} | {figures['agreement']:.3%} |", flush=True)
    if min(figures["agreement"] for ways in found.values() for figures in ways.values()) < LEAST_AGREEMENT:
        sys.exit(f"error: the evaluators agree on less than {LEAST_AGREEMENT:.1%} of the pixels")
    return found


def report_memory(networks: dict[str, Network], arguments: argparse.Namespace) -> dict[str, Any]:
    height, width = CITYSCAPES_SIZE
    passes = 2 * len(SIX_SCALES.scales)
    print(f"| network | {width}x{height}, {arguments.classes} classes, {passes} passes: GB |\n|---|---|")
    found = {}
    for name, network in networks.items():
        found[name] = {"gigabytes": peak_memory(network, arguments) / GIGABYTE}
        print(f"| {name} | {found[name]['gigabytes']:.2f} |", flush=True)
    return found


if __name__ == "__main__":
    main()
