"""A plan as text: tables, then what they say in plain words."""

import math
from collections.abc import Iterable, Sequence

from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.figures import GRADIENTS, SCALARS, STATISTICS, Figures, Traffic, all_reduce_seconds
from cpnet_jax.plan.topologies import GIB, Topology

# Chips for which scaling is worked out, besides those of the topology.
CHIPS = (4, 16, 64, 256, 1024)


def report(
    name: str, batch_size: int, topology: Topology, compiled: Sequence[Compiled], largest: int | None = None
) -> str:
    """All that is known of a config on a slice, in Markdown.

    Args:
      name: of what is trained.
      batch_size: of the config, global.
      compiled: steps of rising numbers of images a chip; at least one.
      largest: most images a chip that fit; None where that was not looked for.
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
            "A step, from the compiler's estimate of its cycles (a lower bound) and the exchange between the chips:",
            _speed(steps, topology),
            "Where its cycles go, by part of the network, millions (what the compiler fuses counts for one part):",
            _parts(steps),
            "Memory of a chip, GiB:",
            _memory(steps, chip.hbm),
            f"What the chips exchange in a step (images a chip: {steps[-1].images}):",
            _exchange(steps[-1].traffic),
            f"The config's global batch of {batch_size} on as many chips as it takes:",
            _spending(steps, batch_size),
            f"More and more chips, on paper (images a chip: {steps[-1].images}):",
            _scaling(steps[-1], topology),
        ]
    parts.append(_words(steps, batch_size, topology, largest))
    return "\n\n".join(part for part in parts if part)


def _speed(steps: Sequence[Figures], topology: Topology) -> str:
    chips = topology.chips
    header = ["images a chip", "global batch", "TFLOP", "compute ms", "exchange ms", "of peak", "images/s a chip"]
    header.append("images/s")
    rows = [
        [
            step.images,
            step.images * chips,
            f"{step.compiled.flops / 1e12:.2f}",
            f"{1e3 * step.compute:.1f}",
            f"{1e3 * (step.seconds(chips) - step.compute):.2f}",
            f"{step.of_peak(chips):.0%}",
            f"{step.images_per_second(chips):.1f}",
            f"{step.images_per_second(chips) * chips:.0f}",
        ]
        for step in steps
    ]
    return _table(header, rows)


def _parts(steps: Sequence[Figures]) -> str:
    rows = [[step.images, *(f"{cycles / 1e6:.1f}" for cycles in step.cycles.values())] for step in steps]
    return _table(["images a chip", *steps[0].cycles], rows)


def _memory(steps: Sequence[Figures], room: int) -> str:
    header = ["images a chip", *steps[0].memory(), "together", "of the chip's"]
    rows = [
        [
            step.images,
            *(f"{size / GIB:.2f}" for size in step.memory().values()),
            f"{step.compiled.total / GIB:.2f}",
            f"{step.compiled.total / room:.0%}",
        ]
        for step in steps
    ]
    return _table(header, rows)


def _exchange(traffic: Sequence[Traffic]) -> str:
    rows = [[group.collective, group.content, group.times, f"{group.bytes / 1e6:.3f}"] for group in traffic]
    return _table(["collective", "of", "times", "MB"], rows) if rows else "nothing."


def _spending(steps: Sequence[Figures], batch_size: int) -> str:
    rows = []
    for step in steps:
        if batch_size % step.images == 0:
            chips = batch_size // step.images
            rate = step.images_per_second(chips)
            rows.append([chips, step.images, f"{1e3 * step.seconds(chips):.1f}", f"{rate * chips:.1f}", f"{rate:.1f}"])
            rows[-1].append(f"{1e6 / rate / 3600:.1f}")
    header = ["chips", "images a chip", "step ms", "images/s", "images/s a chip", "chip-hours a million images"]
    return _table(header, rows) if rows else "none of these numbers of images divides it."


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
        f"{step.images} images a chip need at least {step.needed / GIB:.1f} GiB and do not fit."
        for step in compiled
        if not step.fits
    )


def _words(steps: Sequence[Figures], batch_size: int, topology: Topology, largest: int | None) -> str:
    sentences = [verdict(steps)] if steps else []
    if largest is not None:
        sentences.append(
            f"At most {largest} images a chip fit {topology.chip.name}."
            if largest
            else "Not even one image a chip fits."
        )
    dividing = [step for step in steps if batch_size % step.images == 0]
    if len(dividing) > 1:
        sentences.append(_advice(dividing, batch_size))
    elif steps:
        sentences.append("Give --images_per_chip=1,2,4,8 to see on how many chips the batch is best spent.")
    return "In words: " + " ".join(sentences)


def _advice(steps: Sequence[Figures], batch_size: int) -> str:
    def chips(step: Figures) -> int:
        return batch_size // step.images

    def rate(step: Figures) -> float:
        return step.images_per_second(chips(step))

    cheapest = max(steps, key=rate)
    fastest = max(steps, key=lambda step: rate(step) * chips(step))
    words = (
        f"A batch of {batch_size} costs least on {chips(cheapest)} chip(s), {cheapest.images} images each: "
        f"{rate(cheapest):.1f} images/s a chip"
    )
    if fastest is cheapest:
        return f"{words}, and no other division of it is faster."
    return (
        f"{words}. It is done soonest on {chips(fastest)} chips, {fastest.images} each: "
        f"{rate(fastest) * chips(fastest) / (rate(cheapest) * chips(cheapest)):.1f} times as fast for "
        f"{rate(cheapest) / rate(fastest):.1f} times the chip-hours."
    )


def verdict(steps: Sequence[Figures]) -> str:
    """Whether chips exchange anything, in any of the steps, that data parallelism has no need of."""
    for step in steps:
        if surprises := [group for group in step.traffic if not group.expected]:
            listed = ", ".join(
                f"{group.collective} of {group.content} ({group.bytes / 1e6:.3f} MB)" for group in surprises
            )
            return f"With {step.images} a chip, chips exchange what data parallelism does not need: {listed}."
    return (
        f"The chips exchange nothing but all-reduces of {GRADIENTS}, {STATISTICS} and {SCALARS}, {steps[-1].exchanges} "
        "a step; what they wait for each other at these is not in the figures above."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, aligned for reading as it is."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
