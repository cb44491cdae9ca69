"""Formats a plan as text: tables, then conclusions in words."""

import math
from collections.abc import Iterable, Sequence

from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.figures import (
    GRADIENTS,
    SCALARS,
    STATISTICS,
    Figures,
    GpuFigures,
    TpuFigures,
    all_reduce_seconds,
    figures,
)
from cpnet_jax.plan.gpus import COUNTS, SHARE_OF_MEMORY, Machine
from cpnet_jax.plan.topologies import GIB, Topology

# Numbers of chips in the table of scaling, besides the topology's own.
CHIPS = (4, 16, 64, 256, 1024)


def report(
    name: str, batch_size: int, topology: Topology | Machine, compiled: Sequence[Compiled], largest: int | None = None
) -> str:
    """Report on a config's training step on a slice or on the GPUs of a machine, in Markdown.

    Args:
      name: of the experiment, for the title.
      batch_size: of the config, global.
      compiled: steps by rising number of images per chip or GPU; at least one.
      largest: most images per chip or GPU that fit; None if that was not searched for.
    """
    chip, unit = topology.chip, topology.unit
    steps = [figures(topology, step) for step in compiled if step.fits]
    title = (
        f"## {name} on {topology.name}: {topology.chips} {unit}{'s' if topology.chips > 1 else ''} of "
        f"{chip.hbm / GIB:.0f} GiB and {chip.peak / 1e12:.0f} TFLOP/s"
    )
    parts = [title, _shortages(compiled, topology)]
    if steps:
        parts += [
            *_times(steps, topology),
            f"Memory of a {unit} in GiB:",
            _memory(steps, chip.hbm, unit),
        ]
    if steps and topology.chips > 1:
        parts += [
            f"Communication in a step (images per {unit}: {steps[-1].images}); a collective with arrays of several "
            "kinds counts for each of them, but once in the last row:",
            _exchange(steps[-1]),
            f"The config's global batch of {batch_size} on different numbers of {unit}s:",
            _spending(steps, batch_size, topology),
            f"Computed scaling to more {unit}s (images per {unit}: {steps[-1].images}):",
            _scaling(steps[-1], topology),
        ]
    parts.append(_words(steps, batch_size, topology, largest))
    return "\n\n".join(part for part in parts if part)


def _times(steps: Sequence[Figures], topology: Topology | Machine) -> list[str]:
    """Tables of the time of a step, each after its introduction."""
    gpu_steps = [step for step in steps if isinstance(step, GpuFigures)]
    if gpu_steps:
        return [
            "Time of a step, from the arithmetic and the memory traffic of its kernels (a lower bound), and the "
            "communication:",
            _speed(steps, topology),
            *(text for step in gpu_steps for text in _roofline(step)),
        ]
    return [
        "Time of a step, from the compiler's estimate of its cycles (a lower bound) and the communication:",
        _speed(steps, topology),
        "Cycles of a step by part of the network, in millions (fused operations count for one part):",
        _parts([step for step in steps if isinstance(step, TpuFigures)]),
    ]


def _speed(steps: Sequence[Figures], topology: Topology | Machine) -> str:
    chips, unit = topology.chips, topology.unit
    header = [f"images/{unit}", "global batch", "TFLOP", "compute ms", "exchange ms", "of peak", f"images/s/{unit}"]
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


def _parts(steps: Sequence[TpuFigures]) -> str:
    rows = [[step.images, *(f"{cycles / 1e6:.1f}" for cycles in step.cycles.values())] for step in steps]
    return _table(["images/chip", *steps[0].cycles], rows)


def _roofline(step: GpuFigures) -> list[str]:
    """The kernels by part of the network, the longest part first."""
    parts = {part: sums for part, sums in step.parts.items() if sums.launches}
    rows = [
        [
            name,
            part.launches,
            f"{part.flops / 1e12:.2f}",
            f"{part.bytes / 1e9:.2f}",
            f"{1e3 * part.arithmetic:.2f}",
            f"{1e3 * part.memory:.2f}",
            f"{1e3 * part.seconds:.2f}",
        ]
        for name, part in sorted(parts.items(), key=lambda item: -item[1].seconds)
    ]
    launches = sum(part.launches for part in parts.values())
    rows.append(
        [
            "all",
            launches,
            f"{sum(part.flops for part in parts.values()) / 1e12:.2f}",
            f"{sum(part.bytes for part in parts.values()) / 1e9:.2f}",
            f"{1e3 * sum(part.arithmetic for part in parts.values()):.2f}",
            f"{1e3 * sum(part.memory for part in parts.values()):.2f}",
            f"{1e3 * step.compute:.2f}",
        ]
    )
    return [
        f"Kernels by part of the network (images per GPU: {step.images}). Each takes the longer of its arithmetic and "
        "its memory traffic, and a microsecond to launch:",
        _table(["part", "kernels", "TFLOP", "GB", "arithmetic ms", "memory ms", "together ms"], rows),
        f"The network's {step.compiled.flops / 1e12:.2f} TFLOP take at least {1e3 * step.floor:.1f} ms in bfloat16: "
        f"the kernels take {step.compute / step.floor:.2f} times that.",
    ]


def _memory(steps: Sequence[Figures], room: int, unit: str) -> str:
    header = [f"images/{unit}", *steps[0].memory(), "together", f"of the {unit}'s"]
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


def _spending(steps: Sequence[Figures], batch_size: int, topology: Topology | Machine) -> str:
    unit, rows = topology.unit, []
    for step in _dividing(steps, batch_size, topology):
        chips = batch_size // step.images
        rate = step.images_per_second(chips)
        rows.append([chips, step.images, f"{1e3 * step.seconds(chips):.1f}", f"{rate * chips:.1f}", f"{rate:.1f}"])
        rows[-1].append(f"{1e6 / rate / 3600:.1f}")
    header = [f"{unit}s", f"images/{unit}", "step ms", "images/s", f"images/s/{unit}"]
    header.append(f"{unit}-hours per million images")
    if rows:
        return _table(header, rows)
    return "None of these numbers of images divides it" + (
        f" over at most {topology.chip.pod} GPUs." if isinstance(topology, Machine) else "."
    )


def _dividing(steps: Sequence[Figures], batch_size: int, topology: Topology | Machine) -> list[Figures]:
    """The steps whose images divide the batch, without those that need more chips than are connected."""
    chip = topology.chip
    most = chip.pod if chip.data_center is None else math.inf
    return [step for step in steps if batch_size % step.images == 0 and batch_size // step.images <= most]


def _scaling(step: Figures, topology: Topology | Machine) -> str:
    chip, rows = topology.chip, []
    known = COUNTS if isinstance(topology, Machine) else CHIPS
    for chips in sorted({topology.chips, *known}):
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
    header = [
        f"{topology.unit}s",
        "slices" if topology.unit == "chip" else "machines",
        "global batch",
        "MB all-reduced",
        "exchange ms",
        "efficiency",
        "images/s",
    ]
    return _table(header, rows)


def _shortages(compiled: Sequence[Compiled], topology: Topology | Machine) -> str:
    room = f" in the {topology.chip.room / GIB:.1f} GiB that JAX takes" if isinstance(topology, Machine) else ""
    return "\n".join(
        f"{step.images} images per {topology.unit} need at least {step.needed / GIB:.1f} GiB and do not fit{room}."
        for step in compiled
        if step.needed is not None
    )


def _words(steps: Sequence[Figures], batch_size: int, topology: Topology | Machine, largest: int | None) -> str:
    unit = topology.unit
    alone = topology.chips == 1
    sentences = [verdict(steps, unit)] if steps and not alone else []
    if largest is not None:
        sentences.append(
            f"At most {largest} images per {unit} fit on {topology.chip.name}."
            if largest
            else f"Not even one image per {unit} fits."
        )
        if isinstance(topology, Machine):
            sentences.append(
                f"JAX takes {SHARE_OF_MEMORY:.0%} of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION is set."
            )
    dividing = _dividing(steps, batch_size, topology)
    if alone:
        sentences.append(f"A single {unit} exchanges nothing: name several to see what they exchange.")
    elif len(dividing) > 1:
        sentences.append(_advice(dividing, batch_size, unit))
    elif steps:
        sentences.append(f"Use --images_per_chip=1,2,4,8 to compare different numbers of {unit}s.")
    return "Summary: " + " ".join(sentences)


def _advice(steps: Sequence[Figures], batch_size: int, unit: str) -> str:
    def chips(step: Figures) -> int:
        return batch_size // step.images

    def rate(step: Figures) -> float:
        return step.images_per_second(chips(step))

    cheapest = max(steps, key=rate)
    fastest = max(steps, key=lambda step: rate(step) * chips(step))
    words = (
        f"A batch of {batch_size} costs least on {chips(cheapest)} {unit}(s) with {cheapest.images} images each: "
        f"{rate(cheapest):.1f} images/s/{unit}"
    )
    if fastest is cheapest:
        return f"{words}; that is also the fastest."
    return (
        f"{words}. It is fastest on {chips(fastest)} {unit}s with {fastest.images} each: "
        f"{rate(fastest) * chips(fastest) / (rate(cheapest) * chips(cheapest)):.1f} times as fast for "
        f"{rate(cheapest) / rate(fastest):.1f} times the {unit}-hours."
    )


def verdict(steps: Sequence[Figures], unit: str) -> str:
    """Sentence on whether the devices exchange, in any of the steps, what data parallelism does not need."""
    for step in steps:
        if surprises := [group for group in step.traffic if not group.expected]:
            listed = ", ".join(
                f"{group.collective} of {group.content} ({group.bytes / 1e6:.3f} MB)" for group in surprises
            )
            return f"With {step.images} images per {unit}, {unit}s exchange more than data parallelism needs: {listed}."
    return (
        f"The {unit}s exchange only {GRADIENTS}, {STATISTICS} and {SCALARS}, by {steps[-1].exchanges} all-reduces per "
        f"step; the time that {unit}s wait for each other is not included above."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table with aligned columns."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
