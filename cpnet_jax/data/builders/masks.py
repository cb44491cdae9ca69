"""Converts a user's masks, stored as indices or as colours, to training ids."""

import threading

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from cpnet_jax.data import image_files
from cpnet_jax.data.builders.look_up import in_bands, look_up
from cpnet_jax.data.catalog.class_file import ClassTable
from cpnet_jax.errors import UserError

FIELD = "config.data.folder.mask_format"
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "LA", "PA")
COLOUR_MODES = ("RGB", "RGBA")
IGNORED = 255  # training id


def format_of(mask: Image.Image) -> str:
    """Returns "colours" if a mask has at least three channels, else "indices" (also for palette images)."""
    return "colours" if mask.mode in COLOUR_MODES else "indices"


class PalettesDiffer(UserError):
    """Two masks show an index in different colours."""


class Palettes:
    """The colours in which the masks of a dataset show their indices; several threads may add masks."""

    def __init__(self) -> None:
        # index -> its colour, and the first mask that shows it
        self._shown: dict[int, tuple[tuple[int, ...], str]] = {}
        self._lock = threading.Lock()

    def add(self, mask: Image.Image, ids: UInt8[np.ndarray, "h w"], where: str, table: ClassTable) -> None:
        """Adds a palette mask; ignored pixels may have any colour.

        Tools that shrink PNGs renumber the colours of each file, so that its indices are no longer class indices.

        Raises:
          PalettesDiffer: if an earlier mask shows an index in another colour.
        """
        palette = np.reshape(mask.getpalette("RGB") or [], (-1, 3)).tolist()
        counts = cv2.calcHist([np.asarray(mask)], [0], (ids != IGNORED).view(np.uint8), [256], [0, 256])
        used = np.flatnonzero(counts).tolist()
        for index in [index for index in used if index < len(palette)]:
            colour = tuple(palette[index])
            with self._lock:
                other, first = self._shown.setdefault(index, (colour, where))
            if other != colour:
                raise PalettesDiffer(
                    f"{where} shows index {index} in the colour {colour}, but {first} in {other}: set {FIELD} to "
                    f"'indices' if the indices are right, else give every class its colour in {table.where} (NAME R G "
                    f"B) and set {FIELD} to 'colours'"
                )


def training_ids(
    mask: Image.Image, table: ClassTable, mask_format: str, where: str, *, assumed: bool, bits: int = 8
) -> UInt8[np.ndarray, "h w"]:
    """Converts a mask to training ids: class indices, or 255 for ignored pixels.

    Args:
      mask: the mask, opened by Pillow.
      table: class of each raw value and colour.
      mask_format: "indices", or "colours": then palettes and grey values are looked up as the colours they show.
      where: name of the file for messages.
      assumed: whether the format was inferred from another mask; then this mask is checked against it.
      bits: of each channel in the mask's file.

    Raises:
      UserError: if the file does not have that format, or holds a value or colour not in the table; names the pixel.
    """
    _check_storage(mask, where)
    if mask_format == "indices":
        return _ids_of_indices(mask, table, where, assumed, bits)
    if assumed and format_of(mask) != "colours":
        raise UserError(
            f"{where} is a {mask.mode} image, but other masks are RGB colours: set {FIELD} to 'colours' if this one "
            "shows class colours too, else convert it to RGB"
        )
    return _ids_of_colours(mask, table, where)


def _check_storage(mask: Image.Image, where: str) -> None:
    if mask.mode not in INDEX_MODES + COLOUR_MODES:
        raise UserError(f"{where} is a {mask.mode} image: save it as class indices, a palette image or RGB colours")
    if mask.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(mask.getchannel("A"))
        if (alpha < 255).any():
            raise UserError(
                f"{where} is transparent at {_first(alpha < 255)}, so its class is unknown: save it without an alpha "
                "channel"
            )


def _ids_of_indices(
    mask: Image.Image, table: ClassTable, where: str, assumed: bool, bits: int
) -> UInt8[np.ndarray, "h w"]:
    if format_of(mask) != "indices":
        remedy = f"set {FIELD} to 'colours'" if table.colours else f"add every class's colour to {table.where}"
        raise UserError(
            f"{where} is a {mask.mode} image but one-channel class indices are expected: convert it, or {remedy} if "
            "its colours are the classes"
        )
    if not table.values:
        raise UserError(f"{table.where} gives no class a value, but {where} holds indices: add a value to every class")
    raw = image_files.stored_indices(mask, bits)
    raw = np.where(raw, np.uint8(1), np.uint8(0)) if raw.dtype == bool else raw
    ids = look_up(raw, table.values)
    if assumed and mask.mode == "P" and table.colours:
        _check_palette(mask, raw, ids, table, where)
    ids = _with_rest(ids, table)
    if (ids < 0).any():
        unknown = np.unique(raw[ids < 0]).tolist()
        remedy = "give every class its value there ('VALUE: NAME'), and the unknown ones a class or 'VALUE: ignore'"
        if 255 in unknown:  # it means "ignored" or "foreground", so the user must say which
            remedy = "give every class its value there ('0: NAME', ...), and add '255: NAME' or '255: ignore'"
        raise UserError(
            f"{where} holds the value {raw[ids < 0][0]} at {_first(ids < 0)} (all unknown values: {_some(unknown)}), "
            f"which is not in {table.where}: {remedy}"
        )
    return ids.astype(np.uint8)


def _check_palette(
    mask: Image.Image,
    raw: Integer[np.ndarray, "h w"],
    ids: Integer[np.ndarray, "h w"],
    table: ClassTable,
    where: str,
) -> None:
    """Raises UserError if a palette shows the classes' colours at indices of other classes.

    Tools that shrink PNGs renumber the colours of each file, so that its indices are no longer class indices.
    """
    shown = _ids_by_colour(mask, table)
    if (shown >= 0).all() and (shown != ids).any():
        place = np.unravel_index(np.argmax(shown != ids), ids.shape)
        raise UserError(
            f"{where} shows index {raw[place]} in a colour that {table.where} gives to another class: set {FIELD} to "
            "'colours' if the colours are right, to 'indices' if the indices are"
        )


def _ids_of_colours(mask: Image.Image, table: ClassTable, where: str) -> UInt8[np.ndarray, "h w"]:
    if not table.colours:
        raise UserError(
            f"{where} holds RGB colours but one-channel class indices are expected, since {table.where} gives no "
            "colours: add a colour to every class (NAME R G B), or convert the masks"
        )
    if mask.mode.startswith("I"):
        raise UserError(f"{where} is a 16-bit image but colours are expected: set {FIELD} to 'indices', or convert it")
    ids = _with_rest(_ids_by_colour(mask, table), table)
    if (ids < 0).any():
        pixels = np.asarray(mask.convert("RGB"))[ids < 0]
        more = f"{len(np.unique(pixels, axis=0))} unknown colour(s) in {len(pixels)} pixel(s)"
        raise UserError(
            f"{where} has the colour {tuple(pixels[0].tolist())} at {_first(ids < 0)} ({more}), which is not in "
            f"{table.where}: add it there, or save the masks without antialiasing"
        )
    return ids.astype(np.uint8)


def _ids_by_colour(mask: Image.Image, table: ClassTable) -> Integer[np.ndarray, "h w"]:
    label_of = {(r << 16) + (g << 8) + b: label for (r, g, b), label in table.colours.items()}

    def ids_of(rows: slice) -> Integer[np.ndarray, "rows w"]:
        colours = np.asarray(mask.crop((0, rows.start, mask.width, rows.stop)).convert("RGB"))
        return look_up(colours.astype(np.int32) @ (1 << 16, 1 << 8, 1), label_of)

    return in_bands(mask.size[::-1], ids_of)


def _with_rest(ids: Integer[np.ndarray, "h w"], table: ClassTable) -> Integer[np.ndarray, "h w"]:
    """Gives unknown values and colours the class of all others, if the class file has one."""
    return ids if table.rest is None else np.where(ids < 0, ids.dtype.type(table.rest), ids)


def _first(where: np.ndarray) -> str:
    y, x = np.unravel_index(np.argmax(where), where.shape)
    return f"pixel x={x}, y={y}"


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
