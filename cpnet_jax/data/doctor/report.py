"""What was found, for people and as JSON."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.findings import KINDS, Finding

# Of each kind of trouble the terminal shows so many; the JSON has all.
SHOWN = 5


def as_json(census: Census) -> dict[str, Any]:
    """Everything that was counted and found; of strict JSON types."""
    subject = census.subject
    return {
        "dataset": subject.dataset.name,
        "origin": subject.origin,
        "sound": census.faults == 0,
        "splits": {
            split: {
                "pairs": len(entries),
                "published": subject.dataset.splits.get(split),
                "pixels": census.pixels[split].total(),
                "labelled_pixels": census.class_pixels[split].total(),
            }
            for split, entries in subject.splits.items()
        },
        "raw_values": [
            {
                "value": value,
                "becomes": subject.becomes(value),
                "training_id": subject.rule.get(value),
                "pixels": sum(counts[value] for counts in census.pixels.values()),
                "images": sum(counts[value] for counts in census.images.values()),
            }
            for value in census.values
        ],
        "classes": {
            name: {split: counts[name] for split, counts in census.class_pixels.items()}
            for name in subject.dataset.classes
        },
        "image_sizes": [
            {"width": size[0], "height": size[1], "images": count} for size, count in sorted(census.sizes.items())
        ],
        "findings": [_kind_as_json(kind, list(found)) for kind, found in _by_kind(census)],
    }


def _by_kind(census: Census) -> Iterator[tuple[str, Iterator[Finding]]]:
    return groupby(census.findings, key=lambda finding: finding.kind)


def _kind_as_json(name: str, found: list[Finding]) -> dict[str, Any]:
    kind = KINDS[name]
    return {
        "kind": name,
        "fault": kind.fault,
        "title": kind.title,
        "remedy": kind.remedy,
        "count": len(found),
        "where": [{"where": finding.where, "detail": finding.detail} for finding in found],
    }


def as_text(census: Census, crop_size: tuple[int, int]) -> str:
    """The report to read.

    Args:
      census: what was counted and found.
      crop_size: (height, width) of the run that the data is for.
    """
    parts = [
        f"{census.subject.dataset.name} in {census.subject.origin}",
        "\n".join(_splits(census)),
        "\n".join(_image_sizes(census, crop_size)),
        "\n".join(_raw_values(census)),
        *("\n".join(_kind(kind, list(found))) for kind, found in _by_kind(census)),
        _verdict(census),
    ]
    return "\n\n".join(parts)


def _splits(census: Census) -> Iterator[str]:
    yield f"{'split':<8}{'pairs':>8}{'published':>11}{'labelled pixels':>18}"
    for split, entries in census.subject.splits.items():
        published = census.subject.dataset.splits.get(split, "-")
        share = _percent(census.class_pixels[split].total(), census.pixels[split].total())
        yield f"{split:<8}{len(entries):>8}{published:>11}{share:>18}"


def _image_sizes(census: Census, crop_size: tuple[int, int]) -> Iterator[str]:
    total = census.sizes.total()
    if not total:
        yield "No image could be read."
        return
    [(commonest, count)] = census.sizes.most_common(1)
    yield f"Image sizes: {_size(commonest)} is the commonest, {_percent(count, total)} of {total}."
    for axis, name in ((0, "width"), (1, "height")):
        ordered = sorted(size[axis] for size in census.sizes.elements())
        yield f"  {name:<6} {ordered[0]} to {ordered[-1]}, median {ordered[total // 2]}"
    height, width = crop_size
    small = sum(count for size, count in census.sizes.items() if size[0] < width or size[1] < height)
    if small:
        yield f"  {small} do not fill the crop of {_size((width, height))}: it is padded there unless scaled up"


def _raw_values(census: Census) -> Iterator[str]:
    """What each raw value becomes, and its share of the pixels of each split."""
    names = {value: census.subject.becomes(value) or "NOT IN THE TABLE" for value in census.values}
    width = max(map(len, names.values()))
    yield f"{'value':>7}    {'becomes':<{width}}" + "".join(f"{split:>10}" for split in census.pixels) + "      images"
    for value, name in names.items():
        shares = "".join(f"{_percent(counts[value], counts.total()):>10}" for counts in census.pixels.values())
        images = sum(counts[value] for counts in census.images.values())
        yield f"{value:>7} -> {name:<{width}}{shares}{images or 'never seen':>12}"


def _kind(name: str, found: list[Finding]) -> Iterator[str]:
    kind = KINDS[name]
    yield f"{'FAULT' if kind.fault else 'warning'}: {kind.title} ({len(found)}). {kind.remedy}"
    for finding in found[:SHOWN]:
        yield f"  {finding.where}" + (f": {finding.detail}" if finding.detail else "")
    if len(found) > SHOWN:
        yield f"  ... and {len(found) - SHOWN} more, all in report.json"


def _verdict(census: Census) -> str:
    warnings = len(census.findings) - census.faults
    if not census.faults:
        return f"Sound to train on: {_count(warnings, 'warning')}."
    return f"Not sound to train on: {_count(census.faults, 'fault')}, {_count(warnings, 'warning')}."


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    if not part or not whole:
        return "-"
    return f"{100 * part / whole:.2f} %" if part >= 1e-4 * whole else "< 0.01 %"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
