"""The most images a chip that fit."""

from collections.abc import Callable

from cpnet_jax.plan.compiler import Compiled

# A guess is at most so many times what is known to fit.
FARTHEST = 4


def largest_fitting(
    compile_step: Callable[[int], Compiled], known: dict[int, Compiled], *, room: int, unit: int = 1
) -> int:
    """Compiles steps, each a guess from those before, until one fits and the next does not; they join `known`.

    Memory grows about in proportion to the images, so that few are needed.

    Args:
      compile_step: of so many images a chip.
      known: steps by images a chip; at least one.
      room: bytes of a chip's memory.
      unit: multiples of which are looked at.

    Returns:
      Images a chip; 0 where not even `unit` fit.
    """
    while True:
        fitting = max((images for images, step in known.items() if step.fits), default=0)
        too_many = min((images for images, step in known.items() if not step.fits), default=None)
        if too_many is not None and too_many - fitting <= unit:
            return fitting
        guess = int(_where(room, _line(known, fitting, too_many))) // unit * unit
        # A line through little memory says nothing about much of it.
        guess = min(guess, FARTHEST * max(fitting, unit), *([] if too_many is None else [too_many - unit]))
        guess = max(guess, fitting + unit)
        known[guess] = compile_step(guess)


def _line(known: dict[int, Compiled], fitting: int, too_many: int | None) -> list[tuple[int, int]]:
    """Two points (images, bytes): around the limit, or the last two below it."""
    points = {images: step.total for images, step in known.items()}
    if known[min(known)].fits:
        step = known[min(known)]
        points[0] = step.total - step.memory["temp"]
    else:
        points[0] = 0
    below = sorted(images for images in points if images <= fitting)
    return [(images, points[images]) for images in (below + ([] if too_many is None else [too_many]))[-2:]]


def _where(room: int, line: list[tuple[int, int]]) -> float:
    (x0, y0), (x1, y1) = line
    return x0 + (room - y0) * (x1 - x0) / max(y1 - y0, 1)
