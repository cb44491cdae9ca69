"""Draws a contact sheet of labels over their images, with a legend, for inspection by eye."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from cpnet_jax.data import fonts
from cpnet_jax.data.doctor.census import Census
from cpnet_jax.data.doctor.examined_data import ExaminedData
from cpnet_jax.data.doctor.findings import KINDS
from cpnet_jax.data.doctor.scan import Observation, decode_image
from cpnet_jax.data.image_files import turn_upright
from cpnet_jax.data.pictures import BACKGROUND, GAP, IGNORED_COLOUR, class_names, colourise, legend, overlay
from cpnet_jax.data.value_range import ValueRange

COLUMNS, ROWS = 4, 6
TILE_WIDTH, TILE_HEIGHT = 300, 300  # at most
CAPTION_HEIGHT, CAPTION_SIZE = 17, 12
PAIRS_PER_KIND = 3  # pairs shown for each kind of finding, at most
FINDING_COLOUR = (200, 0, 0)
UNKNOWN_COLOUR = (255, 0, 255)
# Marks pixels with unknown values; neither a class nor the usual ignore label.
UNKNOWN = 254


def contact_sheet(census: Census) -> Image.Image | None:
    """Draws up to COLUMNS x ROWS pairs, see `choose`; returns None if no pair can be drawn."""
    readable = [seen for seen in census.observations if not (seen.extremes and census.range_unknown)]
    chosen = choose(readable, COLUMNS * ROWS)
    if not chosen:
        return None
    data = census.data
    tiles = [_tile(seen, data, census.value_range) for seen in chosen]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    key = _legend(chosen, data, COLUMNS * (TILE_WIDTH + GAP) - GAP)
    sheet = Image.new("RGB", (key.width, key.height + sum(heights)), BACKGROUND)
    sheet.paste(key, (0, 0))
    top = key.height
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * (TILE_WIDTH + GAP), top))
        top += height
    return sheet


def choose(observations: Sequence[Observation], count: int) -> list[Observation]:
    """Chooses pairs to show: some of each kind of finding, then those that add most raw values, then others, evenly."""
    drawable = [seen for seen in observations if seen.image_digest and seen.values and not _has(seen, "size_mismatch")]
    odd = [seen for kind in KINDS for seen in islice((s for s in drawable if _has(s, kind)), PAIRS_PER_KIND)]
    chosen = list(dict.fromkeys(odd))[: count // 2]
    rest = [seen for seen in drawable if seen not in chosen]
    shown = {value for seen in chosen for value in seen.values}
    while rest and len(chosen) < count:
        best = max(rest, key=lambda seen: len(seen.values.keys() - shown))
        if best.values.keys() <= shown:
            break
        chosen.append(best)
        rest.remove(best)
        shown |= best.values.keys()
    places = np.linspace(0, len(rest) - 1, min(count - len(chosen), len(rest))).astype(int)
    return chosen + [rest[place] for place in places]


def _has(seen: Observation, kind: str) -> bool:
    return any(finding.kind == kind for finding in seen.findings)


def _tile(seen: Observation, data: ExaminedData, value_range: ValueRange | None) -> Image.Image:
    entry = seen.entry
    image = turn_upright(decode_image(entry.image_file(), value_range), seen.turn)
    classes = _translate(entry.raw_label(), data.rule)
    pixels = overlay(image, colourise(classes, data.dataset.palette, data.dataset.ignore_label))
    pixels[classes == UNKNOWN] = UNKNOWN_COLOUR  # opaque, since there may be few
    captions = [fonts.drawable(entry.image, CAPTION_SIZE), *(KINDS[finding.kind].title for finding in seen.findings)]
    picture = Image.fromarray(pixels)
    factor = min(TILE_WIDTH / picture.width, TILE_HEIGHT / picture.height)
    size = (max(round(picture.width * factor), 1), max(round(picture.height * factor), 1))
    tile = Image.new("RGB", (TILE_WIDTH, size[1] + len(captions) * CAPTION_HEIGHT), BACKGROUND)
    tile.paste(picture.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST), (0, 0))
    draw = ImageDraw.Draw(tile)
    for line, caption in enumerate(captions):
        place = (2, size[1] + line * CAPTION_HEIGHT)
        colour = FINDING_COLOUR if line else (0, 0, 0)
        draw.text(place, _shortened(caption), fill=colour, font=_font(caption))
    return tile


def _translate(raw: Integer[np.ndarray, "h w"], rule: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Maps raw values to training ids, and unknown values to UNKNOWN."""
    values, places = np.unique(raw, return_inverse=True)
    return np.array([rule.get(value, UNKNOWN) for value in values.tolist()], np.uint8)[places.reshape(raw.shape)]


def _shortened(name: str) -> str:
    """Shortens a name at its start to fit a tile."""
    font = _font(name)
    while font.getlength(name) > TILE_WIDTH:
        name = "..." + name.removeprefix("...")[1:]
    return name


def _font(text: str) -> fonts.Font:
    return fonts.font_for(text, CAPTION_SIZE) or ImageFont.load_default(CAPTION_SIZE)


def _legend(chosen: Sequence[Observation], data: ExaminedData, width: int) -> Image.Image:
    """Draws the legend of the classes that the chosen pairs show, then of ignored and unknown pixels."""
    dataset = data.dataset
    shown = {data.becomes(value) for seen in chosen for value in seen.values}
    known = zip(dataset.classes, class_names(dataset), dataset.palette, strict=True)
    entries = [(drawn, colour) for name, drawn, colour in known if name in shown]
    if "ignored" in shown:
        entries.append(("ignored", IGNORED_COLOUR))
    if None in shown:
        entries.append(("UNKNOWN VALUE", UNKNOWN_COLOUR))
    return legend([name for name, _ in entries], [colour for _, colour in entries], width)
