"""Searches for the most images per chip that fit."""

from collections.abc import Callable

from cpnet_jax.plan.compiler import Compiled

# A guess is at most this multiple of the largest number known to fit.
MAX_GROWTH = 4


def largest_fitting(
    compile_step: Callable[[int], Compiled], known: dict[int, Compiled], *, room: int, unit: int = 1
) -> int:
    """Finds the most images per chip that fit, by compiling steps until one fits and the next does not.

    Memory grows about linearly with the images, so that a few steps are enough.

    Args:
      compile_step: compiles the step for a number of images per chip.
      known: steps compiled before, by images per chip; at least one. New ones are added.
      room: bytes of a chip's memory.
      unit: only multiples of it are tried.

    Returns:
      Images per chip; 0 if not even `unit` fit.
    """
    while True:
        fitting = max((images for images, step in known.items() if step.fits), default=0)
        too_many = min((images for images, step in known.items() if not step.fits), default=None)
        if too_many is not None and too_many - fitting <= unit:
            return fitting
        guess = int(_images_at(room, _line(known, fitting, too_many))) // unit * unit
        # Extrapolation from small steps is unreliable.
        guess = min(guess, MAX_GROWTH * max(fitting, unit), *([] if too_many is None else [too_many - unit]))
        guess = max(guess, fitting + unit)
        known[guess] = compile_step(guess)


def _line(known: dict[int, Compiled], fitting: int, too_many: int | None) -> list[tuple[int, int]]:
    """Two points (images, bytes) for interpolation: around the limit, or the last two below it."""
    points = {images: step.total for images, step in known.items()}
    if known[min(known)].fits:
        step = known[min(known)]
        assert step.memory is not None, "a step that fits was compiled"
        points[0] = step.total - step.memory["temp"]
    else:
        points[0] = 0
    below = sorted(images for images in points if images <= fitting)
    return [(images, points[images]) for images in (below + ([] if too_many is None else [too_many]))[-2:]]


def _images_at(room: int, line: list[tuple[int, int]]) -> float:
    (x0, y0), (x1, y1) = line
    return x0 + (room - y0) * (x1 - x0) / max(y1 - y0, 1)
