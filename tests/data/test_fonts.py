"""Names in pictures are drawn in a font that has their characters, or in another form."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from cpnet_jax.data import fonts, pictures
from cpnet_jax.data.catalog import CAMVID

SIZE = 13
CHINESE = ("天空", "sky", "道路")


@pytest.fixture
def without_system_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: [])
    clear()
    yield
    clear()


def clear():
    for function in (fonts._font_with, fonts._note):
        function.cache_clear()


def test_plain_names_are_drawn_in_pillows_own_font():
    assert fonts.font_for("sky", SIZE).getname() == ImageFont.load_default(SIZE).getname()
    assert fonts.drawable_names(("sky", "traffic light"), SIZE) == ["sky", "traffic light"]


def test_names_that_no_font_has_are_numbers_and_a_note_says_so_once(without_system_fonts, capsys):
    for _ in range(2):
        assert fonts.drawable_names(CHINESE, SIZE) == ["class #0", "sky", "class #2"]
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith("Note: ") and "天空" in note and "install a font" in note


def test_accents_that_no_font_has_are_left_out(without_system_fonts, capsys):
    assert fonts.drawable_names(("café", "Straße"), SIZE)[0] in ("café", "cafe")
    assert fonts.drawable_names(("e\u0301\u0323\u0331",), SIZE) == ["e"]


def test_a_font_of_the_system_is_used_if_it_has_the_characters(monkeypatch):
    """Pillow's own font stands for one of the system here, since test machines may have none."""
    chinese, drawn = Path("chinese.ttf"), ImageFont.load_default(SIZE)
    monkeypatch.setattr(fonts, "_system_fonts", lambda: [Path("damaged.ttf"), chinese])
    monkeypatch.setattr(fonts, "_load", lambda path, size: drawn if path == chinese else None)
    clear()
    assert fonts.font_for("sky", SIZE) is drawn
    clear()


def test_right_to_left_names_are_drawn_only_in_their_order(monkeypatch):
    monkeypatch.setattr(fonts.features, "check_feature", lambda name: False)
    assert fonts.font_for("שמיים", SIZE) is None


@pytest.mark.parametrize("name", ["line\nbreak", "bytes\udcff", "tab\t"])
def test_what_is_no_character_is_escaped(name):
    assert fonts.drawable(name, SIZE) == ascii(name)[1:-1]


def test_a_legend_of_names_that_no_font_has_shows_no_boxes(without_system_fonts, capsys):
    classes = np.zeros((40, 40), np.uint8)
    named = dataclasses.replace(CAMVID, classes=("天空", *CAMVID.classes[1:]))
    numbered = dataclasses.replace(CAMVID, classes=("class #0", *CAMVID.classes[1:]))
    image = np.zeros((40, 40, 3), np.uint8)
    ours, theirs = (np.asarray(pictures.panel(image, classes, classes, dataset)) for dataset in (named, numbered))
    assert np.array_equal(ours, theirs)
