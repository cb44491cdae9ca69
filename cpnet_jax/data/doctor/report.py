"""Formats the result of an examination as text and as JSON."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.findings import KINDS, Finding

# Findings of each kind shown in the text; the JSON lists all.
SHOWN = 5


def as_json(census: Census) -> dict[str, Any]:
    """Returns all counts and findings as strict JSON types."""
    data = census.data
    return {
        "dataset": data.dataset.name,
        "origin": data.origin,
        "sound": census.faults == 0,
        "splits": {
            split: {
                "pairs": len(entries),
                "published": data.dataset.splits.get(split),
                "pixels": census.pixels[split].total(),
                "labelled_pixels": census.class_pixels[split].total(),
            }
            for split, entries in data.splits.items()
        },
        "raw_values": [
            {
                "value": value,
                "becomes": data.becomes(value),
                "training_id": data.rule.get(value),
                "pixels": sum(counts[value] for counts in census.pixels.values()),
                "images": sum(counts[value] for counts in census.images.values()),
                **({"stored_as": data.stored_as.get(value, [])} if data.stored_as else {}),
            }
            for value in census.values
        ],
        "classes": {
            name: {split: counts[name] for split, counts in census.class_pixels.items()}
            for name in data.dataset.classes
        },
        "image_sizes": [
            {"width": size[0], "height": size[1], "images": count} for size, count in sorted(census.sizes.items())
        ],
        "deep_images": {
            "images": len(census.deep_images),
            "lowest": min((found.lowest for found in census.deep_images.values()), default=None),
            "highest": max((found.highest for found in census.deep_images.values()), default=None),
            "value_range": census.value_range,
        },
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
    """Formats the report as text.

    Args:
      census: counts and findings.
      crop_size: the config's (height, width).
    """
    parts = [
        f"{census.data.dataset.name} in {census.data.origin}",
        "\n".join(_splits(census)),
        "\n".join((*_image_sizes(census, crop_size), *_deep_images(census))),
        "\n".join(_raw_values(census)),
        *("\n".join(_kind(kind, list(found))) for kind, found in _by_kind(census)),
        _verdict(census),
    ]
    return "\n\n".join(parts)


def _splits(census: Census) -> Iterator[str]:
    yield f"{'split':<8}{'pairs':>8}{'published':>11}{'labelled pixels':>18}"
    for split, entries in census.data.splits.items():
        published = census.data.dataset.splits.get(split, "-")
        share = _percent(census.class_pixels[split].total(), census.pixels[split].total())
        yield f"{split:<8}{len(entries):>8}{published:>11}{share:>18}"


def _image_sizes(census: Census, crop_size: tuple[int, int]) -> Iterator[str]:
    total = census.sizes.total()
    if not total:
        yield "No image could be read."
        return
    [(commonest, count)] = census.sizes.most_common(1)
    yield f"Image sizes: {_size(commonest)} is the most common, {_percent(count, total)} of {total}."
    for axis, name in ((0, "width"), (1, "height")):
        ordered = sorted(size[axis] for size in census.sizes.elements())
        yield f"  {name:<6} {ordered[0]} to {ordered[-1]}, median {ordered[total // 2]}"
    height, width = crop_size
    small = sum(count for size, count in census.sizes.items() if size[0] < width or size[1] < height)
    if small:
        yield f"  {small} are smaller than the crop of {_size((width, height))}: they are padded unless scaled up"


def _deep_images(census: Census) -> Iterator[str]:
    """Says how images of more than 8 bits are scaled, if there are any."""
    deep = census.deep_images.values()
    if not deep:
        return
    values = f"{min(found.lowest for found in deep):g} to {max(found.highest for found in deep):g}"
    fate = "divided by 256"
    if census.range_unknown:
        fate = "of unknown range"
    elif census.value_range:
        fate = "{:g} to {:g} becomes 0 to 255".format(*census.value_range)
    yield f"Values of more than 8 bits: {values} in {len(deep)} images; {fate}."


def _raw_values(census: Census) -> Iterator[str]:
    """Lists what each raw value becomes, and its share of the pixels of each split."""
    names = {value: census.data.becomes(value) or "UNKNOWN VALUE" for value in census.values}
    stored = {value: census.data.stored(value) for value in names}
    width, left = max(map(len, names.values())), max(7, *map(len, stored.values()))
    yield (
        f"{'value':>{left}}    {'becomes':<{width}}"
        + "".join(f"{split:>10}" for split in census.pixels)
        + "      images"
    )
    for value, name in names.items():
        shares = "".join(f"{_percent(counts[value], counts.total()):>10}" for counts in census.pixels.values())
        images = sum(counts[value] for counts in census.images.values())
        yield f"{stored[value]:>{left}} -> {name:<{width}}{shares}{images or 'never seen':>12}"


def _kind(name: str, found: list[Finding]) -> Iterator[str]:
    kind = KINDS[name]
    yield f"{'FAULT' if kind.fault else 'WARNING'}: {kind.title} ({len(found)}). {kind.remedy}"
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
