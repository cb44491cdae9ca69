"""--mode=plan: what a config's training step will cost on slices of TPUs, found out without any."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import ml_collections
from tqdm import tqdm

from cpnet_jax.config import build
from cpnet_jax.config.check import check_config, resolve_classes
from cpnet_jax.errors import UserError
from cpnet_jax.plan.compiler import Compiled, Compiler
from cpnet_jax.plan.largest import largest_fitting
from cpnet_jax.plan.report import report
from cpnet_jax.plan.topologies import Topology
from cpnet_jax.runtime import files


def plan(
    config: ml_collections.ConfigDict,
    slices: Sequence[Topology],
    images_per_chip: Sequence[int],
    *,
    find_largest: bool,
) -> None:
    """Compiles the config's step for every slice and number of images, and prints what that says.

    Args:
      slices: of TPUs, to run it on.
      images_per_chip: rising; none: the config's batch over the chips.
      find_largest: whether to look for the most images that fit, too, which takes some more compiling.

    Raises:
      UserError: on a config that cannot work, a number of images that is no multiple of the parts that the config works
        a batch through in, or where libtpu is missing.
    """
    cache = prepare(config)
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
            note = ", looking for the most images that fit"
            search = partial(compiler.compile, expected=_usual_seconds(steps), note=note)
            largest = largest_fitting(search, steps, room=topology.chip.hbm, unit=unit)
        text = report(_title(config), config.batch_size, topology, _rising(steps), largest)
        print(f"\n{text}\n", flush=True)


def prepare(config: ml_collections.ConfigDict) -> Path | None:
    """Checks a config and fills in its number of classes -> the folder for what is compiled, if it wants one.

    Raises:
      UserError: on a config that cannot work.
    """
    check_config(config)
    if not config.data.num_classes:
        resolve_classes(config, build.make_dataset(config))
    if not config.system.compilation_cache:
        return None
    cache = Path(config.system.compilation_cache).expanduser() / "plans"
    files.make_folder(cache, "config.system.compilation_cache")
    return cache


def _compile_all(compiler: Compiler, images_per_chip: Sequence[int]) -> dict[int, Compiled]:
    """By images a chip."""
    steps = {images: step for images in images_per_chip if (step := compiler.known(images))}
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
    return f", {place} of {count}" + (f" (the others about {tqdm.format_interval(rest)})" if rest else "")


def _rising(steps: dict[int, Compiled]) -> list[Compiled]:
    return [steps[images] for images in sorted(steps)]
