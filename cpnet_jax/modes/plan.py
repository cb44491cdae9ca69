"""--mode=plan: estimates the time and memory of a config's training step on TPUs or GPUs; needs none of them."""

from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import Any

import ml_collections
from tqdm import tqdm

from cpnet_jax.errors import UserError
from cpnet_jax.modes import Call, flags
from cpnet_jax.plan import topologies
from cpnet_jax.plan.compiler import Compiled, Compiler, cache_folder, resolve_config
from cpnet_jax.plan.gpus import Machine
from cpnet_jax.plan.largest import largest_fitting
from cpnet_jax.plan.report import report
from cpnet_jax.plan.topologies import Topology


def plan(
    config: ml_collections.ConfigDict,
    slices: Sequence[Topology | Machine],
    images_per_chip: Sequence[int],
    *,
    find_largest: bool,
) -> None:
    """Compiles the config's step for every slice and number of images, and prints a report for each slice.

    Args:
      slices: TPU slices, or GPUs of a machine, to compile for.
      images_per_chip: or per GPU, in rising order; if empty, the config's batch is divided over them.
      find_largest: whether to search for the most images that fit, which takes a few more compilations.

    Raises:
      UserError: if a field's value cannot work, a number of images is not a multiple of config.optimizer.accumulate, or
        the compiler is missing.
    """
    resolve_config(config)
    cache = cache_folder(config)
    unit = config.optimizer.accumulate
    if wrong := [images for images in images_per_chip if images % unit]:
        raise UserError(
            f"--images_per_chip has {wrong[0]}: it must be a multiple of config.optimizer.accumulate, {unit}"
        )
    for topology in slices:
        compiler = Compiler(config, topology, cache)
        images = images_per_chip or [max(config.batch_size // topology.chips // unit, 1) * unit]
        steps = _compile_all(compiler, images)
        largest = None
        if find_largest:
            note = ", searching for the most images that fit"
            search = partial(compiler.compile, expected=_usual_seconds(steps), note=note)
            largest = largest_fitting(search, steps, room=topology.chip.room, unit=unit)
        text = report(_title(config), config.batch_size, topology, _rising(steps), largest)
        print(f"\n{text}\n", flush=True)


def _compile_all(compiler: Compiler, images_per_chip: Sequence[int]) -> dict[int, Compiled]:
    """Compiles the steps that are not cached; returns all by images per chip."""
    steps = {images: step for images in images_per_chip if (step := compiler.cached(images))}
    missing = [images for images in images_per_chip if images not in steps]
    for place, images in enumerate(missing, 1):
        expected = _usual_seconds(steps)
        steps[images] = compiler.compile(images, expected=expected, note=_note(place, len(missing), expected))
    return steps


def _usual_seconds(steps: dict[int, Compiled]) -> float | None:
    return mean(step.seconds for step in steps.values()) if steps else None


def _title(config: ml_collections.ConfigDict) -> str:
    height, width = config.data.crop_size
    return f"{config.name}, ResNet-{config.model.depth}, crop {height}x{width},"


def _note(place: int, count: int, expected: float | None) -> str:
    if count == 1:
        return ""
    rest = expected and (count - place) * expected
    return f", {place} of {count}" + (f" (about {tqdm.format_interval(rest)} for the others)" if rest else "")


def _rising(steps: dict[int, Compiled]) -> list[Compiled]:
    return [steps[images] for images in sorted(steps)]


def run(call: Call) -> None:
    plan(call.config, **arguments())


def arguments() -> dict[str, Any]:
    """The arguments of `plan` from the flags, except the config.

    Raises:
      UserError: if no topology is named or one is unknown, or --images_per_chip has something other than numbers.
    """
    names = [name for value in flags.TOPOLOGY.value for name in value.split(",")]
    if not names:
        raise UserError(
            "--topology is missing: name a TPU slice or GPUs, for example --topology=v5e:4x4 or --topology=h100:8"
        )
    wrong = [value for value in flags.IMAGES_PER_CHIP.value if not value.isdecimal() or not int(value)]
    if wrong:
        raise UserError(f"--images_per_chip has {wrong[0]!r}: give numbers of images, for example 1,2,4,8")
    return {
        "slices": list({slice_.name: slice_ for slice_ in map(topologies.parse, names)}.values()),
        "images_per_chip": sorted({int(value) for value in flags.IMAGES_PER_CHIP.value}),
        "find_largest": flags.FIND_LARGEST.value,
    }
