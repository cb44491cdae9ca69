"""Measures the input pipeline in images/s per CPU core, against a PyTorch DataLoader with OpenCV.

    python benchmarks/input_pipeline.py [--images=256] [--rounds=5] [--workers=1,2] [--chip-rate=100]

The baseline does what mmsegmentation does: read, resize the whole image and label, crop, flip, normalise to floats.
Both read the same generated images from files, with the sizes and file sizes of ADE20K (JPEG) and CamVid (PNG), draw
scales and crops from the same distributions, and make batches of 16.

- One core: both are pinned to it and alternate, so that other load affects both. The figure is the median CPU time per
  image over the rounds; wall time is shown as well.
- The baseline is measured three times: complete; without normalising, since cpnet_jax normalises on the device; and
  also with PNGs encoded as in cpnet_jax's records, which decode faster, to compare the rest of the pipeline.
- Workers: images/s of wall time with that many processes on all cores.

Needs PyTorch (pip install -e '.[torch]'). Prints tables and one JSON line.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cpnet_jax.config import experiments
from cpnet_jax.data.augment import augment
from cpnet_jax.data.builders.base import encode_label, stored_image
from cpnet_jax.data.records import augment_record
from cpnet_jax.data.stream import TrainStream

experiments.make_importable()
from configs import camvid, default  # noqa: E402

BATCH, IGNORED = 16, 255
OURS = "cpnet_jax"
RECODED = "_recoded"
BASELINES = {
    "torch": (True, ""),
    "torch, not normalised": (False, ""),
    "torch, not normalised, our files": (False, RECODED),
}


@dataclass(frozen=True)
class Case:
    """Images like a dataset's, and their augmentation."""

    size: tuple[int, int]
    suffix: str
    detail: float  # strength of the texture; chosen for the dataset's file sizes
    classes: int
    crop: tuple[int, int]
    scales: tuple[float, ...]


CASES = {
    "ADE20K-like JPEG 683x512": Case((512, 683), ".jpg", 2, 150, (512, 512), tuple(default.get_config().data.scales)),
    "CamVid-like PNG 480x360": Case((360, 480), ".png", 1.5, 11, (360, 480), tuple(camvid.get_config().data.scales)),
}
CONFIG = default.get_config().data


def write_pictures(folder: Path, case: Case, count: int) -> None:
    """Writes images and labels as datasets are published (PNGs with filters), and recoded as in our records."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
        (folder / (name + RECODED)).mkdir()
    for index in range(count):
        image, label = picture(case, np.random.default_rng(index))
        quality = [cv2.IMWRITE_JPEG_QUALITY, 75] if case.suffix == ".jpg" else []
        path = folder / "images" / f"{index}{case.suffix}"
        cv2.imwrite(str(path), image, quality)
        (folder / f"images{RECODED}" / path.name).write_bytes(stored_image(path.read_bytes(), path.name))
        cv2.imwrite(
            str(folder / "labels" / f"{index}.png"),
            label,
            [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS],
        )
        (folder / f"labels{RECODED}" / f"{index}.png").write_bytes(encode_label(label))


def picture(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and label: regions with curved borders, textured at every scale like photographs."""
    shape = _noise(rng, case.size, 200, 2) + 0.1 * _noise(rng, case.size, 40, 2)
    classes = np.append(rng.permutation(case.classes), IGNORED).astype(np.uint8)
    label = classes[(np.floor(0.8 * shape).astype(int) @ (1, 7)) % len(classes)]
    tone = rng.integers(40, 216, (256, 3))[label]
    texture = sum(
        cell**0.6 * (_noise(rng, case.size, cell, 1) + 0.3 * _noise(rng, case.size, cell, 3))
        for cell in (1, 2, 4, 8, 16, 32)
    )
    return np.clip(tone + case.detail * texture, 0, 255).astype(np.uint8), label


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: int, channels: int) -> np.ndarray:
    """Noise, smooth at the scale of `cell` pixels."""
    grid = rng.normal(0, 1, (size[0] // cell + 2, size[1] // cell + 2, channels))
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)


# --- cpnet_jax --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Records like those of `builders.records`, but from files, so that both sides read the same way."""

    folder: Path
    suffix: str
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "id": str(index),
            "image": (self.folder / f"images{RECODED}" / f"{index}{self.suffix}").read_bytes(),
            "label": (self.folder / f"labels{RECODED}" / f"{index}.png").read_bytes(),
        }


def our_batches(folder: Path, case: Case, count: int, *, workers: int = 0, threads: int = 0) -> TrainStream:
    augmentation = partial(
        augment,
        crop_size=case.crop,
        scales=case.scales,
        flip_probability=CONFIG.flip_probability,
        fill=tuple(CONFIG.mean),
        ignore_label=IGNORED,
    )
    transform = partial(augment_record, num_classes=case.classes, ignore_label=IGNORED, augmentation=augmentation)
    records = Records(folder, case.suffix, count)
    return TrainStream(records, transform=transform, batch_size=BATCH, seed=0, workers=workers, threads=threads)


# --- PyTorch and OpenCV -----------------------------------------------------------------------------------------------


class Pictures(Dataset):
    """The operations of mmsegmentation's usual training pipeline."""

    def __init__(self, folder: Path, case: Case, count: int, *, normalise: bool, encoding: str) -> None:
        self.folder, self.case, self.count = folder, case, count
        self.normalise, self.encoding = normalise, encoding
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        case, rng = self.case, self.rng
        image = _imread(self.folder / f"images{self.encoding}" / f"{index}{case.suffix}", cv2.IMREAD_COLOR)
        label = _imread(self.folder / f"labels{self.encoding}" / f"{index}.png", cv2.IMREAD_UNCHANGED)
        scale = case.scales[rng.integers(len(case.scales))]
        size = tuple(int(side * scale + 0.5) for side in reversed(label.shape))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        top, left = (rng.integers(max(side - crop, 0) + 1) for side, crop in zip(label.shape, case.crop, strict=True))
        window = slice(top, top + case.crop[0]), slice(left, left + case.crop[1])
        image, label = image[window], label[window]
        if rng.random() < CONFIG.flip_probability:
            image, label = np.flip(image, 1), np.flip(label, 1)
        image = _normalised(image) if self.normalise else image[..., ::-1]
        below, right = (crop - side for crop, side in zip(case.crop, label.shape, strict=True))
        if below or right:
            fill = 0 if self.normalise else CONFIG.mean
            image = cv2.copyMakeBorder(np.ascontiguousarray(image), 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)
            label = cv2.copyMakeBorder(label.copy(), 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORED)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(label.copy()).long()


def _imread(path: Path, flags: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)


def _normalised(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    cv2.subtract(image, np.float64(CONFIG.mean).reshape(1, -1), image)
    return cv2.multiply(image, 1 / np.float64(CONFIG.std).reshape(1, -1), image)


def torch_batches(pictures: Pictures, *, workers: int = 0) -> Iterator[Any]:
    """Yields batches without end."""
    context = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = DataLoader(
        pictures, BATCH, shuffle=True, drop_last=True, num_workers=workers, worker_init_fn=_one_thread, **context
    )
    while True:
        yield from loader


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(batches: Iterator[Any], count: int) -> tuple[float, float]:
    """(CPU, wall) seconds per image."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in islice(batches, count):
        pass
    return (time.process_time() - cpu) / (count * BATCH), (time.perf_counter() - wall) / (count * BATCH)


def per_core(folder: Path, case: Case, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images/s by CPU and wall time of each loader, alternating on one core; medians over the rounds."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        loaders = {OURS: our_batches(folder, case, images)} | {
            name: torch_batches(Pictures(folder, case, images, normalise=normalise, encoding=encoding))
            for name, (normalise, encoding) in BASELINES.items()
        }
        times = {name: [] for name in loaders}
        for turn in range(rounds + 1):
            for name, batches in loaders.items():
                spent = timed(batches, images // BATCH)
                if turn:  # the first round warms up
                    times[name].append(spent)
    finally:
        os.sched_setaffinity(0, cores)
    return {
        name: {
            "cpu": 1 / statistics.median(cpu for cpu, _ in spent),
            "wall": 1 / statistics.median(wall for _, wall in spent),
            "ratio": statistics.median(cpu / own for (cpu, _), (own, _) in zip(spent, times[OURS], strict=True)),
        }
        for name, spent in times.items()
    }


def with_workers(make: Callable[[int], Iterator[Any]], workers: int, images: int) -> float:
    """Images/s of wall time, after the first batch."""
    batches = make(workers)
    next(batches)
    _, wall = timed(batches, max(images // BATCH, 4 * workers))
    batches.close()
    return 1 / wall


def mean_size(folder: Path) -> float:
    return statistics.mean(path.stat().st_size for path in folder.iterdir()) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="number of images, and images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="1,2", help="numbers of worker processes")
    parser.add_argument(
        "--chip-rate", type=float, default=100.0, help="images/s that a chip consumes, for the number of cores it needs"
    )
    arguments = parser.parse_args()
    _one_thread(0)
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            write_pictures(folder, case, arguments.images)
            sizes = f"{mean_size(folder / 'images'):.0f} kB, label {mean_size(folder / 'labels'):.1f} kB"
            rates = per_core(folder, case, arguments.images, arguments.rounds)
            pictures = Pictures(folder, case, arguments.images, normalise=True, encoding="")
            makers = {
                OURS: lambda n: our_batches(folder, case, arguments.images, workers=n, threads=1),  # noqa: B023
                "torch": lambda n: torch_batches(pictures, workers=n),  # noqa: B023
            }
            scaling = {
                loader: {n: with_workers(make, n, 2 * arguments.images) for n in map(int, arguments.workers.split(","))}
                for loader, make in makers.items()
            }
        report(f"{name} ({sizes}), crop {case.crop[0]}x{case.crop[1]}", rates, scaling, arguments.chip_rate)
        found[name] = {"per_core": rates, "workers": scaling}
    print(json.dumps(found))


def report(title: str, rates: dict[str, Any], scaling: dict[str, Any], chip_rate: float) -> None:
    print(f"\n{title}\n\n| loader | images/s/core | by wall time | speed-up of {OURS} | cores for {chip_rate:g}/s |")
    print("|---|---|---|---|---|")
    for loader, rate in rates.items():
        ratio = "" if loader == OURS else f"{rate['ratio']:.2f}x"
        print(f"| {loader} | {rate['cpu']:.0f} | {rate['wall']:.0f} | {ratio} | {chip_rate / rate['cpu']:.2f} |")
    for loader, by_workers in scaling.items():
        print(f"{loader}: " + ", ".join(f"{rate:.0f} images/s with {n} worker(s)" for n, rate in by_workers.items()))


if __name__ == "__main__":
    main()
