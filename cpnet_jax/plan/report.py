"""Formats a plan as text: tables, then conclusions in words."""

import math
from collections.abc import Iterable, Sequence

from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.figures import GRADIENTS, SCALARS, STATISTICS, Figures, all_reduce_seconds
from cpnet_jax.plan.topologies import GIB, Topology

# Numbers of chips in the table of scaling, besides the topology's own.
CHIPS = (4, 16, 64, 256, 1024)


def report(
    name: str, batch_size: int, topology: Topology, compiled: Sequence[Compiled], largest: int | None = None
) -> str:
    """Report on a config's training step on a slice, in Markdown.

    Args:
      name: of the experiment, for the title.
      batch_size: of the config, global.
      compiled: steps by rising number of images per chip; at least one.
      largest: most images per chip that fit; None if that was not searched for.
    """
    chip = topology.chip
    steps = [Figures(chip, step) for step in compiled if step.fits]
    title = (
        f"## {name} on {topology.name}: {topology.chips} chips of {chip.hbm / GIB:.0f} GiB and "
        f"{chip.peak / 1e12:.0f} TFLOP/s"
    )
    parts = [title, _shortages(compiled)]
    if steps:
        parts += [
            "Time of a step, from the compiler's estimate of its cycles (a lower bound) and the communication:",
            _speed(steps, topology),
            "Cycles of a step by part of the network, in millions (fused operations count for one part):",
            _parts(steps),
            "Memory of a chip in GiB:",
            _memory(steps, chip.hbm),
            f"Communication in a step (images per chip: {steps[-1].images}); a collective with arrays of several kinds "
            "counts for each of them, but once in the last row:",
            _exchange(steps[-1]),
            f"The config's global batch of {batch_size} on different numbers of chips:",
            _spending(steps, batch_size),
            f"Computed scaling to more chips (images per chip: {steps[-1].images}):",
            _scaling(steps[-1], topology),
        ]
    parts.append(_words(steps, batch_size, topology, largest))
    return "\n\n".join(part for part in parts if part)


def _speed(steps: Sequence[Figures], topology: Topology) -> str:
    chips = topology.chips
    header = ["images/chip", "global batch", "TFLOP", "compute ms", "exchange ms", "of peak", "images/s/chip"]
    header.append("images/s")
    rows = [
        [
            step.images,
            step.images * chips,
            f"{step.compiled.flops / 1e12:.2f}",
            f"{1e3 * step.compute:.1f}",
            f"{1e3 * (step.seconds(chips) - step.compute):.2f}",
            f"{step.utilization(chips):.0%}",
            f"{step.images_per_second(chips):.1f}",
            f"{step.images_per_second(chips) * chips:.0f}",
        ]
        for step in steps
    ]
    return _table(header, rows)


def _parts(steps: Sequence[Figures]) -> str:
    rows = [[step.images, *(f"{cycles / 1e6:.1f}" for cycles in step.cycles.values())] for step in steps]
    return _table(["images/chip", *steps[0].cycles], rows)


def _memory(steps: Sequence[Figures], room: int) -> str:
    header = ["images/chip", *steps[0].memory(), "together", "of the chip's"]
    rows = [
        [
            step.images,
            *(f"{size / GIB:z.2f}" for size in step.memory().values()),
            f"{step.compiled.total / GIB:.2f}",
            f"{step.compiled.total / room:.0%}",
        ]
        for step in steps
    ]
    return _table(header, rows)


def _exchange(step: Figures) -> str:
    rows = [[group.collective, group.content, group.times, f"{group.bytes / 1e6:.3f}"] for group in step.traffic]
    rows.append(["all", "all", step.exchanges, f"{sum(group.bytes for group in step.traffic) / 1e6:.3f}"])
    return _table(["collective", "of", "times", "MB"], rows) if step.traffic else "none."


def _spending(steps: Sequence[Figures], batch_size: int) -> str:
    rows = []
    for step in steps:
        if batch_size % step.images == 0:
            chips = batch_size // step.images
            rate = step.images_per_second(chips)
            rows.append([chips, step.images, f"{1e3 * step.seconds(chips):.1f}", f"{rate * chips:.1f}", f"{rate:.1f}"])
            rows[-1].append(f"{1e6 / rate / 3600:.1f}")
    header = ["chips", "images/chip", "step ms", "images/s", "images/s/chip", "chip-hours per million images"]
    return _table(header, rows) if rows else "None of these numbers of images divides it."


def _scaling(step: Figures, topology: Topology) -> str:
    chip, rows = topology.chip, []
    for chips in sorted({topology.chips, *CHIPS}):
        exchange = all_reduce_seconds(step.exchanged, chip, chips)
        rows.append(
            [
                chips,
                math.ceil(chips / chip.pod),
                step.images * chips,
                f"{step.exchanged / 1e6:.0f}",
                f"{1e3 * exchange:.2f}",
                f"{step.compute / step.seconds(chips):.1%}",
                f"{step.images_per_second(chips) * chips:.0f}",
            ]
        )
    header = ["chips", "slices", "global batch", "MB all-reduced", "exchange ms", "efficiency", "images/s"]
    return _table(header, rows)


def _shortages(compiled: Sequence[Compiled]) -> str:
    return "\n".join(
        f"{step.images} images per chip need at least {step.needed / GIB:.1f} GiB and do not fit."
        for step in compiled
        if step.needed is not None
    )


def _words(steps: Sequence[Figures], batch_size: int, topology: Topology, largest: int | None) -> str:
    sentences = [verdict(steps)] if steps else []
    if largest is not None:
        sentences.append(
            f"At most {largest} images per chip fit on {topology.chip.name}."
            if largest
            else "Not even one image per chip fits."
        )
    dividing = [step for step in steps if batch_size % step.images == 0]
    if len(dividing) > 1:
        sentences.append(_advice(dividing, batch_size))
    elif steps:
        sentences.append("Use --images_per_chip=1,2,4,8 to compare different numbers of chips.")
    return "Summary: " + " ".join(sentences)


def _advice(steps: Sequence[Figures], batch_size: int) -> str:
    def chips(step: Figures) -> int:
        return batch_size // step.images

    def rate(step: Figures) -> float:
        return step.images_per_second(chips(step))

    cheapest = max(steps, key=rate)
    fastest = max(steps, key=lambda step: rate(step) * chips(step))
    words = (
        f"A batch of {batch_size} costs least on {chips(cheapest)} chip(s) with {cheapest.images} images each: "
        f"{rate(cheapest):.1f} images/s/chip"
    )
    if fastest is cheapest:
        return f"{words}; that is also the fastest."
    return (
        f"{words}. It is fastest on {chips(fastest)} chips with {fastest.images} each: "
        f"{rate(fastest) * chips(fastest) / (rate(cheapest) * chips(cheapest)):.1f} times as fast for "
        f"{rate(cheapest) / rate(fastest):.1f} times the chip-hours."
    )


def verdict(steps: Sequence[Figures]) -> str:
    """Sentence on whether the chips exchange, in any of the steps, anything that data parallelism does not need."""
    for step in steps:
        if surprises := [group for group in step.traffic if not group.expected]:
            listed = ", ".join(
                f"{group.collective} of {group.content} ({group.bytes / 1e6:.3f} MB)" for group in surprises
            )
            return f"With {step.images} images per chip, chips exchange more than data parallelism needs: {listed}."
    return (
        f"The chips exchange only {GRADIENTS}, {STATISTICS} and {SCALARS}, by {steps[-1].exchanges} all-reduces per "
        "step; the time that chips wait for each other is not included above."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table with aligned columns."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
