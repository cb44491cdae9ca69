"""Progress display: a live line on a terminal, occasional plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from cpnet_jax.runtime import processes

T = TypeVar("T")
# Seconds between lines if the output is not a terminal.
QUIET_SECONDS = 10.0


def on_terminal() -> bool:
    return sys.stderr.isatty()


class Progress:
    """Shows the steps done, the rate, the remaining time and a few figures, on the main process only.

    Args:
      total: number of steps; None if it is unknown.
      what: name of the work, shown first.
      initial: steps done before (a resumed run).
      unit: name of one step, singular.
    """

    def __init__(self, total: int | None, what: str, *, initial: int = 0, unit: str = "step") -> None:
        self._what, self._unit = what, unit
        self._shown = processes.is_main_process()
        self._last_line = time.monotonic()
        # The first step compiles; smoothing 0.1 lets the ETA forget it soon.
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=what,
            unit=unit,
            dynamic_ncols=True,
            smoothing=0.1,
            disable=not (self._shown and on_terminal()),
        )
        self._total, self._count = total, initial
        self._first: tuple[float, int] | None = None  # time and count after the first step

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def advance(self, **figures: str) -> None:
        """Counts one step; `figures` are shown as name=value."""
        self._count += 1
        self._bar.update()
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        now = time.monotonic()
        self._first = self._first or (now, self._count)
        last = self._count == self._total
        if self._shown and not on_terminal() and (now - self._last_line >= QUIET_SECONDS or last):
            self._last_line = now
            self._print_line(now, figures)

    def say(self, line: str) -> None:
        """Prints a line above the live one."""
        if not self._shown:
            return
        tqdm.write(line) if on_terminal() else print(line, flush=True)

    def _print_line(self, now: float, figures: dict[str, str]) -> None:
        line = f"{self._what} {self._unit} {self._count}"
        if self._total and self._first:
            line += f"/{self._total}"
            since, done_then = self._first
            # The first step may include a compilation, so it is left out of the rate.
            if self._count > done_then:
                left = (self._total - self._count) * (now - since) / (self._count - done_then)
                line += f", {tqdm.format_interval(left)} left"
        line = ", ".join([line, *(f"{name} {value}" for name, value in figures.items())])
        print(line, file=sys.stderr, flush=True)  # like the live line


def track(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "image") -> Iterator[T]:
    """Yields the items and shows how many have passed."""
    with Progress(total, what, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()
