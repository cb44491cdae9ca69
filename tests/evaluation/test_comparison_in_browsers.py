"""The comparison in real browsers: it sorts, enlarges and draws curves, and names do nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, PROGRAMS, opened, started

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.comparison.images import ComparedImage, ComparedImages
from cpnet_jax.evaluation.comparison.page import write_comparison
from cpnet_jax.evaluation.comparison.runs import ComparedRun

SIZES = {"desktop": DESKTOP, "phone": PHONE}
IOUS = ((0.5, 0.9, 0.25), (0.7, 0.8, 0.25))
HOSTILE = (
    "</script><script>document.title = 'broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\u05e9\u05de\u05d9\u05dd\u202e 7",
)


@pytest.fixture(scope="module", params=list(PROGRAMS))
def browser(request):
    with started(request.param) as found:
        yield found


def make(folder: Path, classes=("sky", "road", "tree"), runs=("plain", "prior"), images=("one", "two")) -> Path:
    """A comparison of two runs, with curves, two images, and a config field that differs."""
    dataset = Dataset(runs[0], tuple(classes), ((90, 150, 220), (90, 90, 90), (40, 140, 60)))
    found = []
    for place, (name, ious) in enumerate(zip(runs, IOUS, strict=True)):
        path = folder / str(place)
        path.mkdir(parents=True)
        lines = [{"step": step, "loss": 5 / step - place / 10} for step in range(5, 105, 5)]
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        figures = {"mIoU": float(np.mean(ious)), "per_class": dict(zip(classes, ious, strict=True)), "images": 2}
        description = {"name": name, "seed": place, "trained_on": {}}
        found.append(ComparedRun(path, dataset, figures, description, name=name))
    rng = np.random.default_rng(0)
    shown = []
    for name in images:
        label, *predictions = (rng.integers(0, 3, (40, 60)).astype(np.uint8) for _ in range(3))
        image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        shown.append(ComparedImage(name, image, label, tuple(predictions), 0.5))
    write_comparison(folder / "comparison.html", found, ComparedImages(tuple(shown), (f"A note on {runs[1]}.",)))
    return folder / "comparison.html"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return make(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(params=list(SIZES))
def page(request, browser, comparison):
    found = opened(browser, comparison.as_uri(), SIZES[request.param])
    yield found.page
    assert found.errors == [] and found.requests == []
    assert not found.is_wider_than_the_window()
    found.page.context.close()


def first_column(page):
    return [text.strip() for text in page.locator("#classes tbody th").all_inner_texts()]


def test_classes_are_sorted_by_their_differences(page):
    assert first_column(page) == ["sky", "road", "tree"]
    heading = page.locator("#classes thead button").last
    heading.click()
    assert first_column(page) == ["sky", "tree", "road"]
    heading.click()
    assert first_column(page) == ["road", "tree", "sky"]


def test_bars_lead_to_the_right_for_gains_and_to_the_left_for_losses(page):
    tracks = page.locator("#classes .track")
    for place, kind in ((0, "gain"), (1, "loss")):
        track, bar = (found.bounding_box() for found in (tracks.nth(place), tracks.nth(place).locator(f".{kind}")))
        middle = track["x"] + track["width"] / 2
        inner = bar["x"] if kind == "gain" else bar["x"] + bar["width"]
        assert abs(inner - middle) < 1
        assert bar["width"] == pytest.approx((0.5 if kind == "gain" else 0.25) * track["width"], abs=1)


def test_curves_of_both_runs_are_read_at_one_step(page):
    plot = page.locator("#curves .curves-panel > svg").first
    plot.focus()
    page.keyboard.press("Home")
    text = page.locator("#curves .curves-values").first.inner_text()
    assert text.startswith("Step 5:") and "A: plain" in text and "B: prior" in text
    assert "1" in text and "0.9" in text


def test_larger_enlarges_all_pictures_of_an_image_and_only_them(page):
    def widths():
        return [img.bounding_box()["width"] for img in page.locator(".sample img").all()]

    before = widths()
    page.get_by_role("button", name="Larger").first.click()
    after = widths()
    assert all(b > a for a, b in zip(before[:5], after[:5], strict=True)) and before[5:] == after[5:]
    page.get_by_role("button", name="Larger").first.click()
    assert widths() == before


def test_only_fields_that_differ_are_listed(page):
    assert page.locator("#config tbody th").all_inner_texts() == ["name", "seed"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hostile_names_do_nothing_but_look_odd(browser, tmp_path, dark):
    path = make(tmp_path, classes=HOSTILE, runs=(HOSTILE[0], "x" * 300), images=HOSTILE[1:])
    found = opened(browser, path.as_uri(), PHONE, dark=dark)
    found.page.locator("#curves .curves-panel > svg").first.focus()
    found.page.keyboard.press("Home")
    assert found.page.title().startswith("2 networks on ") and "</script>" in found.page.title()
    assert found.page.locator("img[onerror]").count() == 0
    assert found.errors == [] and found.requests == []
    assert not found.is_wider_than_the_window()
