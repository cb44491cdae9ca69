"""Masks as people have them, indices or colours, to training ids."""

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from cpnet_jax.data.catalog.class_file import ClassTable
from cpnet_jax.errors import UserError

FIELD = "config.data.folder.mask_format"
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "LA", "PA")
COLOUR_MODES = ("RGB", "RGBA")


def format_of(mask: Image.Image) -> str:
    """How a mask is stored: "colours" where it has three channels, "indices" otherwise (palettes included)."""
    return "colours" if mask.mode in COLOUR_MODES else "indices"


def training_ids(
    mask: Image.Image, table: ClassTable, mask_format: str, where: str, *, assumed: bool
) -> UInt8[np.ndarray, "h w"]:
    """A mask's training ids: classes, or 255 where nobody should look.

    Args:
      mask: as Pillow opens it.
      table: what values and colours mean.
      mask_format: "indices", or "colours": then palettes and grey values are looked up as the colours they show.
      where: how messages name the file.
      assumed: that format is another mask's, not the user's word: then this one must bear it out.

    Raises:
      UserError: where the file cannot be read in that way, or holds what the table does not know, with the pixel.
    """
    _check_storage(mask, where)
    if mask_format == "indices":
        return _ids_of_indices(mask, table, where, assumed)
    if assumed and format_of(mask) != "colours":
        raise UserError(
            f"{where} is a {mask.mode} image, but other masks are RGB colours: set {FIELD} to 'colours' if it "
            "shows class colours as well, or convert it"
        )
    return _ids_of_colours(mask, table, where)


def _check_storage(mask: Image.Image, where: str) -> None:
    if mask.format == "JPEG":
        raise UserError(f"{where} is a JPEG, which blurs labels at their borders: export the masks as PNG again")
    if mask.mode not in INDEX_MODES + COLOUR_MODES:
        raise UserError(f"{where} is a {mask.mode} image: masks must be class indices, a palette or RGB colours")
    if mask.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(mask.getchannel("A"))
        if (alpha < 255).any():
            raise UserError(
                f"{where} is transparent at {_first(alpha < 255)}, which is no class: save it without an alpha channel"
            )


def _ids_of_indices(mask: Image.Image, table: ClassTable, where: str, assumed: bool) -> UInt8[np.ndarray, "h w"]:
    if format_of(mask) != "indices":
        need = f"set {FIELD} to 'colours'" if table.colours else f"give every class its colour in {table.where}"
        raise UserError(
            f"{where} is a {mask.mode} image where one-channel class indices are expected: convert it, or {need} if "
            "classes are told by colours"
        )
    if not table.values:
        raise UserError(f"{table.where} says of no value which class it means, but {where} holds indices: add them")
    raw = np.asarray(mask.getchannel(0) if mask.mode in ("LA", "PA") else mask).astype(np.int64)
    ids = _look_up(raw, table.values)
    if assumed and mask.mode == "P" and table.colours:
        _check_palette(mask, raw, ids, table, where)
    if (ids < 0).any():
        unknown = np.unique(raw[ids < 0]).tolist()
        hint = "name them there, or as ignored"
        if 255 in unknown:  # what it means differs too much to be assumed
            hint = "add '255: NAME' (and '0: NAME') or '255: ignore' there"
        raise UserError(
            f"{where} holds the value {raw[ids < 0][0]} at {_first(ids < 0)} (unknown in all: {_some(unknown)}), which "
            f"{table.where} does not have: {hint}"
        )
    return ids.astype(np.uint8)


def _check_palette(
    mask: Image.Image,
    raw: Integer[np.ndarray, "h w"],
    ids: Integer[np.ndarray, "h w"],
    table: ClassTable,
    where: str,
) -> None:
    """Raises UserError on a palette that shows the classes' own colours at other indices than theirs.

    Tools that shrink PNGs number the colours of each file anew: its indices mean nothing then.
    """
    shown = _ids_by_colour(mask, table)
    if (shown >= 0).all() and (shown != ids).any():
        place = np.unravel_index(np.argmax(shown != ids), ids.shape)
        raise UserError(
            f"{where} shows index {raw[place]} in a colour that {table.where} gives to another class: set {FIELD} to "
            "'colours' or to 'indices', whichever of the two is right"
        )


def _ids_of_colours(mask: Image.Image, table: ClassTable, where: str) -> UInt8[np.ndarray, "h w"]:
    if not table.colours:
        raise UserError(
            f"{where} holds RGB colours where one-channel class indices are expected, as {table.where} gives no "
            "colours: add its colour to every class (NAME R G B), or convert the masks"
        )
    if mask.mode.startswith("I"):
        raise UserError(
            f"{where} is a 16-bit image where colours are expected: set {FIELD} to 'indices', or convert it"
        )
    ids = _ids_by_colour(mask, table)
    if (ids < 0).any():
        pixels = np.asarray(mask.convert("RGB"))[ids < 0]
        more = f"{len(np.unique(pixels, axis=0))} unknown colour(s) in {len(pixels)} pixel(s)"
        raise UserError(
            f"{where} has the colour {tuple(pixels[0].tolist())} at {_first(ids < 0)} ({more}), which {table.where} "
            "does not have: add it there, or save the masks without smoothing"
        )
    return ids.astype(np.uint8)


def _ids_by_colour(mask: Image.Image, table: ClassTable) -> Integer[np.ndarray, "h w"]:
    codes = np.asarray(mask.convert("RGB")).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    return _look_up(codes, {(r << 16) + (g << 8) + b: label for (r, g, b), label in table.colours.items()})


def _look_up(raw: Integer[np.ndarray, "h w"], labels: dict[int, int]) -> Integer[np.ndarray, "h w"]:
    """Training ids of raw numbers; -1 where a number is not among the labels'."""
    known = np.array(sorted(labels))
    ids = np.array([labels[number] for number in known.tolist()])
    place = np.searchsorted(known, raw).clip(max=len(known) - 1)
    return np.where(known[place] == raw, ids[place], -1)


def _first(where: np.ndarray) -> str:
    y, x = np.unravel_index(np.argmax(where), where.shape)
    return f"pixel x={x}, y={y}"


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
