"""Progress display: a live line on a terminal, occasional plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from cpnet_jax.runtime import processes

T = TypeVar("T")
# Seconds between lines if the output is not a terminal.
QUIET_SECONDS = 10.0
# tqdm's own line, with our remaining time.
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"


def on_terminal() -> bool:
    return sys.stderr.isatty()


class _Bar(tqdm):
    """A tqdm that shows the remaining time of its `Progress`."""

    def __init__(self, *, seconds_left: Callable[[], float | None], **options: Any) -> None:
        self._seconds_left = seconds_left  # first, since tqdm draws the line at once
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "left": _interval(self._seconds_left())}


class Progress:
    """Shows the steps done, the rate, the remaining time and a few figures, on the main process only.

    Args:
      total: number of steps; None if it is unknown.
      what: name of the work, shown first.
      initial: steps done before (a resumed run).
      unit: name of one step, singular.
      scaled: whether the live line shortens large counts, such as 12.3M.
      further: seconds of a step -> seconds of other work until the end, such as evaluations while training.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        initial: int = 0,
        unit: str = "step",
        scaled: bool = False,
        further: Callable[[float], float] = lambda _: 0.0,
    ) -> None:
        self._what, self._unit, self._further = what, unit, further
        self._shown = processes.is_main_process()
        self._last_line = time.monotonic()
        self._total, self._count = total, initial
        self._first: tuple[float, int] | None = None  # time and count after the first step
        self._bar = _Bar(
            total=total,
            initial=initial,
            desc=what,
            unit=unit,
            unit_scale=scaled,
            dynamic_ncols=True,
            smoothing=0.1,  # of the rate, so that it forgets soon that the first step compiled
            bar_format=BAR if total else None,
            disable=not (self._shown and on_terminal()),
            seconds_left=self._seconds_left,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def begin(self) -> None:
        """Shows that the work has begun, since the first step may take long."""
        if self._shown and not on_terminal():
            self._print_line({})

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items and counts one step after each."""
        for item in items:
            yield item
            self.advance()

    def advance(self, count: int = 1, /, **figures: str) -> None:
        """Counts steps, one by default; `figures` are shown as name=value."""
        self._count += count
        now = time.monotonic()
        self._first = self._first or (now, self._count)
        self._bar.update(count)
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        last = self._count == self._total
        if self._shown and not on_terminal() and (now - self._last_line >= QUIET_SECONDS or last):
            self._last_line = now
            self._print_line(figures)

    def leave_out(self, seconds: float) -> None:
        """Leaves a pause that just ended out of the seconds that a step takes."""
        if self._first:
            self._first = self._first[0] + seconds, self._first[1]

    def say(self, line: str) -> None:
        """Prints a line above the live one."""
        if not self._shown:
            return
        tqdm.write(line) if on_terminal() else print(line, flush=True)

    def _seconds_left(self) -> float | None:
        """Until the end, `further` included; None before the second step."""
        if not self._total or not self._first or self._count == self._first[1]:
            return None
        # The first step may include a compilation, so it is left out of the rate.
        since, done_then = self._first
        seconds = (time.monotonic() - since) / (self._count - done_then)
        return (self._total - self._count) * seconds + self._further(seconds)

    def _print_line(self, figures: dict[str, str]) -> None:
        line = f"{self._what} {self._unit} {self._count}" + (f"/{self._total}" if self._total else "")
        left = self._seconds_left()
        parts = [line] if left is None else [line, f"{_interval(left)} left"]
        parts += (f"{name} {value}" for name, value in figures.items())
        print(", ".join(parts), file=sys.stderr, flush=True)  # like the live line


def _interval(seconds: float | None) -> str:
    return "?" if seconds is None else tqdm.format_interval(seconds)


class ByteProgress(Progress):
    """Shows the bytes done, the speed and the remaining time.

    Args:
      total: number of bytes; None if it is unknown.
      what: name of the work, shown first.
      initial: bytes done before (a resumed download).
    """

    def __init__(self, total: int | None, what: str, *, initial: int = 0) -> None:
        super().__init__(total, what, initial=initial, unit="B", scaled=True)
        self._first = time.monotonic(), initial

    def _print_line(self, figures: dict[str, str]) -> None:
        of_all = f" of {readable_size(self._total)}" if self._total else ""
        parts = [f"{self._what}, {readable_size(self._count)}{of_all}"]
        since, done_then = self._first or (0.0, self._count)
        if self._count > done_then:
            parts.append(f"{readable_size(int((self._count - done_then) / (time.monotonic() - since)))}/s")
        if (left := self._seconds_left()) is not None:
            parts.append(f"{_interval(left)} left")
        print(", ".join(parts), file=sys.stderr, flush=True)


def readable_size(count: int) -> str:
    """A number of bytes in three digits, such as 923 MB and 1.40 GB."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        # Rounding to three digits must not give four.
        if count >= 0.9995 * 10**power:
            value = count / 10**power
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{count} bytes"


def track(
    items: Iterable[T], what: str, *, total: int | None = None, unit: str = "image", announce: bool = False
) -> Iterator[T]:
    """Yields the items and shows how many have passed; `announce` also shows that none has."""
    with Progress(total, what, unit=unit) as progress:
        if announce:
            progress.begin()
        yield from progress.over(items)
