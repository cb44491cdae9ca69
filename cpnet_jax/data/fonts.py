"""Fonts for text in pictures: Pillow's own, or a font of the system that has the characters."""

import os
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
# Other styles of a family have the same characters and are harder to read.
STYLES = ("bold", "italic", "oblique", "black", "thin", "light", "mono", "serif", "math")
# No font has this character, so each draws it as a missing one.
NONCHARACTER = "\U0010ffff"


def font_for(text: str, size: float) -> Font | None:
    """A font of `size` pixels that has all characters of the text, or None if it is missing.

    Text from right to left also needs the library that orders and joins its letters.
    """
    characters = frozenset(text)
    if _is_from_right_to_left(characters) and not features.check_feature("raqm"):
        return None
    return _font_with(characters, size)


def drawable_names(names: Sequence[str], size: float) -> list[str]:
    """The names of classes in a form that can be drawn: without accents, or "class #NUMBER", where no font has them."""
    found = [next((form for form in (name, _without_accents(name)) if font_for(form, size)), None) for name in names]
    if None in found:
        _note(names[found.index(None)])
    return [name or f"class #{number}" for number, name in enumerate(found)]


def drawable(text: str, size: float) -> str:
    """The text, or its ASCII form with escapes if no font has its characters."""
    return text if font_for(text, size) else ascii(text)[1:-1]


def _without_accents(text: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part))


@cache
def _note(name: str) -> None:
    print(
        f"Note: no font of this system can draw the class name {name}, so pictures show numbers of classes instead of "
        'such names: install a font for it, for example "Noto Sans CJK" for Chinese, Japanese and Korean',
        file=sys.stderr,
        flush=True,
    )


@cache
def _font_with(characters: frozenset[str], size: float) -> Font | None:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in characters):
        return None  # line breaks, and bytes of file names that are no UTF-8
    fonts = (_load(path, size) for path in (None, *_system_fonts()))
    return next((font for font in fonts if font and all(map(partial(_has, font), characters))), None)


@cache
def _has(font: Font, character: str) -> bool:
    return character.isspace() or _drawn(font, character) != _drawn(font, NONCHARACTER)


def _drawn(font: Font, character: str) -> bytes:
    mask: Any = font.getmask(character)
    return bytes(mask)


@cache
def _load(path: Path | None, size: float) -> Font | None:
    """The font of a file, or Pillow's own; None if the file is damaged, or holds bitmaps of another size."""
    try:
        return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    except OSError:
        return None


@cache
def _system_fonts() -> list[Path]:
    """The system's font files: plain styles first, and small files, which draw their few scripts better."""
    found = [path for folder in FOLDERS for path in Path(os.path.expanduser(folder)).rglob("*")]
    fonts = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(fonts, key=lambda path: (sum(style in path.name.lower() for style in STYLES), path.stat().st_size))


def _is_from_right_to_left(characters: frozenset[str]) -> bool:
    return any(unicodedata.bidirectional(character) in ("R", "AL") for character in characters)
