"""Time of a compiled step by part of the network: as planned (see docs/plan.md), and as a profile measures it."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData

from cpnet_jax.plan import parts, roofline
from cpnet_jax.plan.gpus import CARDS
from cpnet_jax.plan.hlo import Program


def planned(program: Program, device_kind: str) -> dict[str, float] | None:
    """Seconds by part of the network by the roofline of the card; None for devices without one.

    Args:
      device_kind: JAX's name of the device.
    """
    for card in CARDS.values():
        if card.kind == device_kind:
            return {part: sums.seconds for part, sums in roofline.by_part(program, card).items()}
    return None


def measured(program: Program, run: Callable[[], None], *, times: int) -> dict[str, float]:
    """Seconds by part of the network that the operations of a run take, side by side or not; the mean of some runs.

    Args:
      run: runs the compiled program and waits for its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                run()
        [profile] = Path(folder).rglob("*.xplane.pb")
        seconds = _by_operation(ProfileData.from_file(str(profile)))
    # A loop's time is that of the operations inside.
    origins = {
        instruction.name: instruction.origin
        for computation in program.computations.values()
        for instruction in computation
        if not instruction.called()
    }
    found = dict.fromkeys([*parts.PATTERNS, parts.REST], 0.0)
    for operation, total in seconds.items():
        if operation in origins:
            found[parts.part_of(origins[operation])] += total / times
    return found


def _by_operation(profile: ProfileData) -> dict[str, float]:
    """Seconds of all events of each operation of a compiled program, by the operation's name."""
    seconds: dict[str, float] = {}
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if operation := dict(event.stats).get("hlo_op"):
                    seconds[operation] = seconds.get(operation, 0.0) + event.duration_ns / 1e9
    return seconds
