"""The report in real browsers: curves and prior react to mouse, keyboard and touch, and names do nothing."""

import json
import re
import time
from collections import namedtuple

import numpy as np
import pytest
from browser import DESKTOP, PHONE, PROGRAMS, opened, started

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.report import prior, read_training, write_report
from cpnet_jax.evaluation.samples import PriorMap, Sample
from cpnet_jax.inference.prior_maps import SampledPrior

SIZES = {"desktop": DESKTOP, "phone": PHONE}
GRID = (8, 10)
HOSTILE = [
    "</script><script>document.title = 'broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "'\"`${document.title='broken'}{{ 7 * 7 }}",
    "x" * 300,
    "\u05e9\u05de\u05d9\u05dd\u202e 7",
]
Report = namedtuple("Report", "path maps classes")


def make_report(folder, names=("sky", "sea", "sand", "grass", "boat"), title="quickstart", ids=("one", "two")):
    """A report of a run with two kept evaluations, whose P_ij depends on i and j in a known way."""
    dataset = Dataset(title, tuple(names), tuple((40 * i, 90, 200 - 30 * i) for i in range(len(names))))
    rng, n = np.random.default_rng(0), GRID[0] * GRID[1]
    classes = rng.integers(0, len(names), (GRID[0] // 2, GRID[1] // 2)).repeat(2, 0).repeat(2, 1).astype(np.uint8)

    def maps_of(step):
        values = (np.arange(n)[:, None] * 3 + np.arange(n)[None] + step).astype(np.uint8)
        figures = np.stack([np.arange(n) / 1000, np.full(n, 0.5), np.full(n, np.nan)], 1).astype(np.float32)
        image = rng.integers(0, 256, (8 * GRID[0], 8 * GRID[1], 3)).astype(np.uint8)
        found = SampledPrior(GRID, 1, 0, values, figures)
        return [PriorMap(id, image, classes, ((1, 1), (4, 7)), found) for id in ids]

    folder.mkdir(parents=True, exist_ok=True)
    prior.keep(folder, maps_of(50), 50)
    maps = maps_of(100)
    lines = [{"step": s, "loss": 5 / s, "lr": 0.1, "step_seconds": 1.0} for s in range(5, 105, 5)]
    lines += [{"step": s, "val_loss": 3 / s, "mIoU": s / 200, "evaluation_seconds": 9.0} for s in (50, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=_step)))
    (folder / "config.json").write_text(json.dumps({"name": title, "seed": 3, "trained_on": {}}))
    start = {"step": 0, "command": f"python main.py --config.name={title}", "packages": {title: title}, "cpu": title}
    (folder / "starts.json").write_text(json.dumps([start]))
    sample = Sample(ids[0], rng.integers(0, 256, (40, 50, 3)).astype(np.uint8), *[np.zeros((40, 50), np.uint8)] * 2, {})
    confusion = rng.integers(0, 99, (len(names),) * 2)
    write_report(
        folder / "report" / "index.html",
        title=(f"{title}: CPNet", title),
        figures=Evaluation(dataset, confusion, images=2).as_json(dataset=title, split="val", step=100),
        confusion=confusion,
        dataset=dataset,
        worst=[sample],
        touchable=prior.touchable(maps, dataset, 100, prior.read_kept(folder, 100)),
        training=read_training(folder),
    )
    return Report(folder / "report" / "index.html", maps, classes)


def _step(line):
    return line["step"]


@pytest.fixture(scope="module", params=list(PROGRAMS))
def browser(request):
    with started(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("run"))


def shown(browser, path, size=DESKTOP, **options):
    """The opened page, when its priors are unpacked."""
    found = opened(browser, path.as_uri(), size, **options)
    texts = "[...document.querySelectorAll('.touch-text')]"
    found.page.wait_for_function(f"{texts}.every((text) => text.textContent)")
    return found


@pytest.fixture(params=list(SIZES))
def page(request, browser, report):
    found = shown(browser, report.path, SIZES[request.param])
    yield found.page
    assert found.errors == [] and found.requests == []
    assert not found.is_wider_than_the_window()
    found.page.context.close()


def box_of(locator):
    locator.scroll_into_view_if_needed()
    return locator.bounding_box()


def point_at(page, locator, across, down, *, click=False):
    """Moves the mouse to a place of an element, given as shares of its width and height."""
    box = box_of(locator)
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    if click:
        page.mouse.down()
        page.mouse.up()


def cell(position):
    """The middle of a position of the prior's grid, as shares of the picture: (across, down)."""
    return (position[1] + 0.5) / GRID[1], (position[0] + 0.5) / GRID[0]


def plots(page):
    return page.locator("#curves .curves-panel > svg")


def values_of(page, panel=0):
    return page.locator("#curves .curves-values").nth(panel).inner_text()


def shown_steps(page):
    """The steps that the first panel's axis names."""
    texts = plots(page).first.locator("text[text-anchor=middle]").all_text_contents()
    return [int(text.replace(",", "")) for text in texts]


def test_curves_show_the_values_under_the_pointer_in_all_panels(page):
    assert re.match(r"Last:\s+training 0.05\s+validation 0.03", values_of(page))
    # The plot begins at 46 and ends at 350 of 360: step 50 of 5 .. 100.
    point_at(page, plots(page).first, (46 + 304 * 45 / 95) / 360, 0.5)
    assert re.match(r"Step 50:\s+training 0.1\s+validation 0.06", values_of(page))
    assert re.match(r"Step 50:\s+validation 25.00 %", values_of(page, 1))
    page.mouse.move(2, 2)
    assert values_of(page).startswith("Last:")


def test_dragging_zooms_all_curves_and_a_double_click_resets(page):
    whole = shown_steps(page)
    box = box_of(plots(page).first)
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=4)
    page.mouse.up()
    zoomed = shown_steps(page)
    assert max(zoomed) < max(whole) and len(zoomed) > 1
    assert page.get_by_role("button", name="Whole run").is_enabled()
    plots(page).nth(1).dblclick()
    assert shown_steps(page) == whole
    assert page.get_by_role("button", name="Whole run").is_disabled()


def test_curves_are_read_and_zoomed_with_the_keyboard(page):
    whole = shown_steps(page)
    plots(page).first.focus()
    for key, text in [("Home", "Step 5:"), ("ArrowRight", "Step 10:"), ("End", "Step 100:"), ("ArrowLeft", "Step 95:")]:
        page.keyboard.press(key)
        assert values_of(page).startswith(text)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert min(shown_steps(page)) > 60
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("-")
    page.keyboard.press("Escape")
    assert shown_steps(page) == whole and values_of(page).startswith("Last:")


def panes(page, image=0):
    return page.locator("#touch article").nth(image).locator(".touch-pane")


def said(page, image=0):
    text = page.locator("#touch article").nth(image).locator(".touch-text").text_content()
    return text.replace("\u2068", "").replace("\u2069", "")  # isolate names


def drawn(page, pane, image=0):
    """(red, green, blue, opacity) of every block of a map."""
    script = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    pixels = panes(page, image).nth(pane).locator("canvas").evaluate(script)
    return np.array(pixels).reshape(*GRID, 4)


def heat_of(values):
    """Brightness grows with the value: its ranks are the values' ranks."""
    from cpnet_jax.evaluation.prior_pictures import heat

    return heat(values / 255).astype(int)


def assert_shows(page, values):
    """Waits for the browser's next frames, in which the page draws."""
    expected, deadline = heat_of(values.reshape(GRID)), time.monotonic() + 10
    while not np.allclose(drawn(page, 1)[..., :3], expected, rtol=0, atol=6) and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    np.testing.assert_allclose(drawn(page, 1)[..., :3], expected, rtol=0, atol=6)


def name_at(report, position):
    return ("sky", "sea", "sand", "grass", "boat")[report.classes[position]]


def test_a_click_on_a_picture_shows_the_row_of_that_position(page, report):
    point_at(page, panes(page).nth(0), *cell((5, 3)), click=True)
    page.mouse.move(2, 2)
    i = 5 * GRID[1] + 3
    assert f"Row of position 5, 3, {name_at(report, (5, 3))}" in said(page)
    assert f"precision {i / 10:.1f} %, recall 50.0 %, specificity \u2013" in said(page)
    assert_shows(page, report.maps[0].prior.values[i])
    ideal = report.classes == report.classes[5, 3]
    bright = drawn(page, 2)[..., :3].sum(-1)
    assert (bright[ideal].min() > bright[~ideal].max()) and len(np.unique(bright)) == 2
    difference = report.maps[0].prior.values[i].reshape(GRID) / 255 - ideal
    np.testing.assert_allclose(drawn(page, 3)[..., 3], 235 * np.abs(difference), atol=2)


def test_the_column_of_a_position_is_shown_too(page, report):
    point_at(page, panes(page).nth(0), *cell((5, 3)), click=True)
    page.mouse.move(2, 2)
    page.locator("#touch article").first.get_by_role("button", name="Column", exact=True).click()
    assert said(page).startswith("Column of position 5, 3") and "precision" not in said(page)
    assert_shows(page, report.maps[0].prior.values[:, 5 * GRID[1] + 3])


def test_pointing_previews_a_position_and_leaving_returns_to_the_chosen_one(page):
    assert said(page).startswith("Row of position 1, 1")
    point_at(page, panes(page).nth(0), *cell((7, 9)))
    assert said(page).startswith("Row of position 7, 9")
    page.mouse.move(2, 2)
    assert said(page).startswith("Row of position 1, 1")
    assert said(page, 1).startswith("Row of position 1, 1"), "the other image is left alone"


def test_pointing_at_a_map_reads_its_values(page, report):
    point_at(page, panes(page).nth(3), *cell((2, 6)))
    value = report.maps[0].prior.values[11, 26] / 255
    text = page.locator("#touch article").first.locator(".touch-small").first.inner_text()
    assert text.startswith(f"At 2, 6: prior {value:.2f}, ideal ")
    assert said(page).startswith("Row of position 1, 1")


def test_arrow_keys_move_the_position_up_to_the_edges(page):
    page.locator("#touch .touch-panes").first.focus()
    for key, position in [("ArrowDown", "2, 1"), ("ArrowRight", "2, 2"), ("Shift+ArrowRight", "2, 7")]:
        page.keyboard.press(key)
        assert said(page).startswith(f"Row of position {position}")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Shift+ArrowLeft")
    assert said(page).startswith("Row of position 0, 0")
    page.keyboard.press("c")
    assert said(page).startswith("Column of position 0, 0")


def test_the_slider_shows_earlier_evaluations(page, report):
    slider = page.locator("#touch input").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#touch output").first.inner_text() == "step 50"
    assert_shows(page, report.maps[0].prior.values[11] - np.uint8(50))


def test_a_button_goes_to_each_marked_position(page, report):
    names = page.locator("#touch article").first.locator(".touch-bar button").all_inner_texts()
    assert names[:2] == ["Row", "Column"] and len(names) == 4
    page.locator("#touch article").first.locator(".touch-bar button").nth(3).click()
    assert said(page).startswith("Row of position 4, 7")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hostile_names_do_nothing_but_look_odd(browser, tmp_path, dark):
    report = make_report(tmp_path / "run", names=HOSTILE, title=HOSTILE[0], ids=HOSTILE[:2])
    found = shown(browser, report.path, PHONE, dark=dark)
    title = found.page.title()
    assert found.page.locator("#touch article").count() == 2
    for image in range(2):
        box = panes(found.page, image).nth(0)
        for position in [(0, 0), (3, 3), (7, 9), (5, 6)]:
            point_at(found.page, box, *cell(position), click=True)
            assert said(found.page, image).startswith(f"Row of position {position[0]}, {position[1]}")
    plots(found.page).first.focus()
    found.page.keyboard.press("End")
    assert found.page.title() == title != "broken" and "</script>" in title
    assert found.page.locator("#touch img[onerror]").count() == 0
    assert found.errors == [] and found.requests == []
    assert not found.is_wider_than_the_window()


def test_pages_without_a_run_or_a_prior_have_neither_section(browser, tmp_path):
    dataset = Dataset("d", ("a", "b"), ((1, 2, 3),) * 2)
    confusion = np.ones((2, 2), np.int64)
    figures = Evaluation(dataset, confusion, images=1).as_json()
    write_report(tmp_path / "index.html", title=("", ""), figures=figures, confusion=confusion, dataset=dataset)
    found = shown(browser, tmp_path / "index.html")
    assert found.page.locator("#training, #prior, #curves, #touch").count() == 0
    assert found.page.locator("#classes").count() == 1 and found.errors == []


@pytest.mark.parametrize("size", [(37, 53), (8, 8), (1000, 300)])
def test_a_prior_without_a_label_and_of_any_size_is_shown(browser, tmp_path, size):
    """As the demo shows it: whole images, sampled."""
    rng = np.random.default_rng(0)
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    image = rng.integers(0, 256, (8 * grid[0], 8 * grid[1], 3)).astype(np.uint8)
    stride = 4 if min(grid) > 4 else 1
    kept = -(-grid[0] // stride) * -(-grid[1] // stride)
    sampled = SampledPrior(grid, stride, stride // 2, rng.integers(0, 256, (kept, kept)).astype(np.uint8))
    dataset = Dataset("d", ("a",), ((1, 2, 3),))
    payload = prior.touchable([PriorMap("i", image, None, (), sampled)], dataset, 1)
    figures = Evaluation(dataset, np.ones((1, 1), np.int64), images=1).as_json()
    confusion = np.ones((1, 1), np.int64)
    write_report(
        tmp_path / "index.html",
        title=("", ""),
        figures=figures,
        confusion=confusion,
        dataset=dataset,
        touchable=payload,
    )
    found = shown(browser, tmp_path / "index.html", PHONE)
    assert panes(found.page).count() == 2
    point_at(found.page, panes(found.page).nth(1), 0.98, 0.98, click=True)
    last = [min(int(0.98 * side) // stride * stride + stride // 2, side - 1) for side in grid]
    assert said(found.page) == f"Row of position {last[0]}, {last[1]}"
    assert found.errors == [] and not found.is_wider_than_the_window()
