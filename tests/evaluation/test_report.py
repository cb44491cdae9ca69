"""The report is one self-contained page with the figures of eval.json, and copes with unusual input."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpnet_jax.data.catalog import ADE20K, CAMVID, Dataset
from cpnet_jax.data.pictures import WRONG_COLOUR
from cpnet_jax.evaluation.evaluate import Evaluation
from cpnet_jax.evaluation.metrics import compute_all
from cpnet_jax.evaluation.report import write_report
from cpnet_jax.evaluation.report.matrix import draw_matrix
from cpnet_jax.evaluation.samples import PriorSample, Sample

VOID = {"meta", "link", "img", "image", "rect", "br"}
IGNORED = 255


class Page(HTMLParser):
    """The parsed page; fails if tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []  # of elements that are read, not run
        self.tables: list[list[list[str]]] = []
        self.scripts: list[tuple[dict, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" in self._open:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "style" not in self._open:
            self.texts.append(data.strip())
            if "td" in self._open or "th" in self._open:
                self.tables[-1][-1][-1] += data.strip()

    def table(self, heading: str) -> list[list[str]]:
        """The rows below the heading of the table whose first column it names."""
        [rows] = [rows for rows in self.tables if rows[0][0] == heading]
        return rows[1:]

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def pictures(self) -> list[Image.Image]:
        sources = [a["src"] for a in self.attributes("img")] + [a["href"] for a in self.attributes("image")]
        return [Image.open(BytesIO(base64.b64decode(source.split(",", 1)[1], validate=True))) for source in sources]


def make_confusion(classes: int, absent=()) -> np.ndarray:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 1000, (classes, classes)) + np.diag(rng.integers(0, 100_000, classes))
    confusion[list(absent)] = 0
    return confusion.astype(np.int64)


def make_sample(dataset=CAMVID, shape=(30, 40), name="img", noise=True) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8) if noise else np.full((*shape, 3), 90, np.uint8)
    label = rng.choice([*range(len(dataset.classes)), IGNORED], shape).astype(np.uint8)
    prediction = rng.integers(0, len(dataset.classes), shape).astype(np.uint8)
    return Sample(name, image, label, prediction, {"mIoU": 0.4567, "pixel accuracy": None})


def make_prior_sample(name="window", positions=((0, 0), (2, 3)), ideal=True) -> PriorSample:
    rng = np.random.default_rng(0)
    rows = rng.random((len(positions), 4, 5)).astype(np.float32)
    image = rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    return PriorSample(name, image, tuple(positions), rows, (rows > 0.7).astype(np.float32) if ideal else None)


def write(
    folder: Path, dataset=CAMVID, confusion=None, figures=None, title=("tiny", "made"), **samples
) -> tuple[Page, str]:
    confusion = make_confusion(len(dataset.classes)) if confusion is None else confusion
    evaluation = Evaluation(dataset, confusion, images=3)
    settings = {"dataset": dataset.name, "split": "val", "step": 80_000, "flip": True, "scales": [0.5, 1.0]}
    path = folder / "report" / "index.html"
    figures = {**evaluation.as_json(**settings), **(figures or {})}
    write_report(path, title=title, figures=figures, confusion=confusion, dataset=dataset, **samples)
    html = path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    assert len(html.encode()) < 10e6
    return Page(html), html


def everything(dataset=CAMVID) -> dict:
    samples = [make_sample(dataset, name=f"img {i}") for i in range(4)]
    return {"worst": samples[:2], "best": samples[2:], "priors": [make_prior_sample("w 1"), make_prior_sample("w 2")]}


@pytest.mark.parametrize("dataset", [CAMVID, ADE20K], ids=lambda dataset: dataset.name)
def test_the_page_loads_nothing_from_elsewhere(tmp_path, dataset):
    page, html = write(tmp_path, dataset, **everything(dataset))
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
    namespace = "http://www.w3.org/2000/svg"  # a name that nothing is loaded from
    assert "://" not in re.sub(r'"data:[^"]*"', "", html).replace(namespace, "")
    assert "@import" not in html and "url(" not in html
    [policy] = [a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_links_within_the_page_have_targets_and_ids_are_unique(tmp_path):
    page, _ = write(tmp_path, **everything())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in page.attributes("a")]
    assert len(links) == 5 and set(links) <= set(ids)


def test_every_picture_decodes_at_its_stated_size_and_is_described(tmp_path):
    page, _ = write(tmp_path, **everything())
    shown = page.attributes("img")
    assert len(shown) == 4 * 4 + 2 * (1 + 2 * 2)
    for attributes, picture in zip(shown, page.pictures(), strict=False):
        picture.load()
        assert picture.size == (int(attributes["width"]), int(attributes["height"]))
        assert attributes["alt"]
    assert len({attributes["alt"] for attributes in shown}) == len(shown)


def test_tables_have_headings_and_scrolling_regions_can_be_reached_by_keyboard(tmp_path):
    page, _ = write(tmp_path, ADE20K)
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.attributes("th"))
    regions = [a for a in page.attributes("div") if a.get("role") == "region"]
    assert regions and all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    [svg] = page.attributes("svg")
    assert svg["role"] == "img" and svg["aria-label"]


def test_figures_are_those_of_eval_json_and_of_the_confusion_matrix(tmp_path):
    confusion = make_confusion(11, absent=[9])
    page, _ = write(tmp_path, confusion=confusion)
    found = compute_all(confusion)
    for value in (found["mIoU"], found["pixel_accuracy"], found["mean_accuracy"]):
        assert f"{100 * value:.2f} %" in page.texts
    rows = page.table("Class")
    assert [row[0] for row in rows] == list(CAMVID.classes)
    for i, (_, iou, bar, accuracy, frequency, dice) in enumerate(rows):
        assert frequency == f"{100 * confusion[i].sum() / confusion.sum():.2f} %"
        if i == 9:
            assert (iou, bar, accuracy, dice) == ("–", "absent", "–", "–")  # noqa: RUF001
        else:
            assert iou == f"{100 * found['per_class'][i]:.1f} %"
            assert accuracy == f"{100 * confusion[i, i] / confusion[i].sum():.1f} %"
    [data] = [json.loads(text) for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert data == {"classes": list(CAMVID.classes), "confusion": confusion.tolist()}


def test_confusions_are_listed_from_the_most_frequent_on(tmp_path):
    confusion = make_confusion(11)
    page, _ = write(tmp_path, confusion=confusion)
    wrong = confusion - np.diag(np.diag(confusion))
    pairs = sorted(np.ndindex(11, 11), key=lambda pair: -wrong[pair])[:20]
    assert page.table("True") == [
        [
            CAMVID.classes[true],
            CAMVID.classes[predicted],
            f"{100 * wrong[true, predicted] / confusion[true].sum():.1f} %",
            f"{100 * wrong[true, predicted] / wrong.sum():.1f} %",
        ]
        for true, predicted in pairs
    ]


def test_the_matrix_is_normalised_by_row_and_shows_rare_confusions():
    confusion = np.array([[99, 1, 0], [0, 0, 0], [10_000, 0, 0]], np.int64)
    matrix = draw_matrix(confusion, ("a", "b", "c"))
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(matrix.picture.uri.split(",")[1]))))
    assert pixels.shape == (3 * matrix.cell, 3 * matrix.cell, 4)
    opacity = pixels[matrix.cell // 2 :: matrix.cell, matrix.cell // 2 :: matrix.cell, 3] / 255
    np.testing.assert_allclose(opacity, np.sqrt([[0.99, 0.01, 0], [0, 0, 0], [1, 0, 0]]), atol=0.003)
    assert matrix.present == (True, False, True)
    assert [(cell.text, cell.x < cell.y) for cell in matrix.cells] == [("99", False), ("1", False), ("100", True)]


def test_wide_letters_have_room_beside_the_matrix():
    matrix = draw_matrix(np.eye(2, dtype=np.int64), ("道路と歩道橋", "空"))
    assert matrix.margin >= 6 * matrix.letters


@pytest.mark.parametrize("classes", [2, 14, 15, 60, 61, 150, 255])
def test_matrices_of_all_sizes_name_every_class(tmp_path, classes):
    names = tuple(f"class {i}" for i in range(classes))
    page, _ = write(tmp_path, Dataset("many", names, ((1, 2, 3),) * classes))
    for name in names:
        assert page.texts.count(name) >= 3, "in the table and on both sides of the matrix"


HOSTILE = "<script>alert('x')</script>&amp;\"</style>{{ 7 * 7 }}"


def test_names_from_users_files_are_escaped(tmp_path):
    dataset = Dataset(HOSTILE, (HOSTILE, "</script><img src=x onerror=alert(1)>", "ø 道路"), ((1, 2, 3),) * 3)
    sample = make_sample(dataset, name=HOSTILE)
    page, html = write(
        tmp_path, dataset, worst=[sample], priors=[make_prior_sample(HOSTILE)], figures={HOSTILE: {HOSTILE: 0.5}}
    )
    plain, _ = write(tmp_path, Dataset("d", ("a", "b", "c"), ((1, 2, 3),) * 3), worst=[sample])
    assert len(page.attributes("script")) == len(plain.attributes("script"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>alert" not in html and "onerror=alert(1)>" not in "".join(a for _, a in page.scripts)
    assert HOSTILE in page.texts and "49" not in page.texts
    assert [row[0] for row in page.table("Class")] == list(dataset.classes)


def test_names_from_right_to_left_do_not_reorder_what_stands_beside_them(tmp_path):
    hebrew, forged = "\u05e9\u05de\u05d9\u05dd 7", "sky\u202eyks"
    dataset = Dataset(hebrew, (forged, hebrew, "sea"), ((1, 2, 3),) * 3)
    samples = {"worst": [make_sample(dataset, name=hebrew)], "priors": [make_prior_sample(forged)]}
    page, html = write(tmp_path, dataset, title=(forged, hebrew), **samples)
    assert not any(mark in html for mark in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067")
    shown, isolated = forged.replace("\u202e", r"\u202e"), f"\u2068{hebrew}\u2069"
    assert f"\u2068{shown}\u2069 on {isolated}" in page.texts
    assert f"{isolated}: the image" in [attributes.get("alt") for _, attributes in page.tags]
    assert [row[0] for row in page.table("Class")] == [shown, hebrew, "sea"]
    [(_, data)] = [script for script in page.scripts if script[0].get("id") == "confusion-data"]
    assert json.loads(data)["classes"] == [shown, hebrew, "sea"]


def test_names_that_are_not_utf8_are_shown_with_replacement_characters(tmp_path):
    page, _ = write(tmp_path, worst=[make_sample(name="caf\udce9")])
    assert "caf?" in page.texts


def test_unknown_figures_of_eval_json_are_shown(tmp_path):
    dice = {name: i / 20 for i, name in enumerate(CAMVID.classes)} | {"sky": None}
    further = {
        "frequency_weighted_iou": 0.61234,
        "dice": 0.5321,
        "conventions": {"absent_as_0": 0.4112, "absent_as_1": None},
        "per_class_dice": dice,
    }
    page, _ = write(tmp_path, figures=further)
    facts = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
    assert "61.23 %" in page.texts
    assert facts["dice"] == "53.21 %"
    assert facts["conventions: absent as 0"] == "41.12 %" and facts["conventions: absent as 1"] == "–"  # noqa: RUF001
    assert [row[-1] for row in page.table("Class")] == ["–", *(f"{5 * i:.1f} %" for i in range(1, 11))]  # noqa: RUF001


def test_settings_are_shown_and_missing_ones_are_marked(tmp_path):
    page, _ = write(tmp_path)
    facts = {row[0]: row[1] for table in page.tables for row in table if len(row) == 2}
    assert facts["scales"] == "0.5, 1.0" and facts["flip"] == "yes" and facts["step"] == "80000"
    assert facts["window"] == "not stated"


def test_absent_classes_are_named(tmp_path):
    page, _ = write(tmp_path, confusion=make_confusion(11, absent=[2, 9]))
    assert "pole, pedestrian" in page.texts
    assert any(text.startswith("2 of 11 classes have no") for text in page.texts)


def test_an_evaluation_without_labelled_pixels_can_be_shown(tmp_path):
    sample = make_sample()
    sample.label[:] = IGNORED
    empty = PriorSample("w", np.zeros((8, 8, 3), np.uint8), (), np.zeros((0, 1, 1)), np.zeros((0, 1, 1)))
    page, html = write(tmp_path, confusion=np.zeros((11, 11), np.int64), worst=[sample], priors=[empty])
    assert "Nothing was confused." in page.texts
    assert "No position of this window is labelled." in page.texts
    assert not re.search(r"\bnan\b", re.sub(r'"data:[^"]*"', "", html), re.IGNORECASE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (900, 1), (7, 5)])
def test_images_of_any_shape_can_be_shown(tmp_path, shape):
    page, _ = write(tmp_path, best=[make_sample(shape=shape)])
    assert len([picture.load() for picture in page.pictures()]) == 5


def test_an_error_map_keeps_its_colours(tmp_path):
    sample = make_sample(shape=(120, 160), noise=False)
    sample.label[:], sample.prediction[:] = 0, 1
    sample.label[:, :80] = 1
    page, _ = write(tmp_path, worst=[sample])
    error = np.asarray(page.pictures()[3]).astype(int)
    assert np.abs(error[:, 200:] - WRONG_COLOUR).max() < 12
    assert np.ptp(error[:, :150], axis=-1).max() < 12, "grey where it is right"


def test_a_prior_without_a_label_is_shown_without_ideal_rows(tmp_path):
    page, _ = write(tmp_path, priors=[make_prior_sample(ideal=False)])
    assert len(page.attributes("img")) == 3
    assert "ideal" not in page.texts and "precision" not in page.texts


def test_the_figures_of_a_row_are_those_of_the_affinity_loss(tmp_path):
    rows = np.array([[[0.5, 1.0], [0.25, 0.25]]])
    sample = PriorSample("w", np.zeros((16, 16, 3), np.uint8), ((0, 0),), rows, np.array([[[1.0, 1.0], [0, 0]]]))
    page, _ = write(tmp_path, priors=[sample])
    place = page.texts.index("precision")
    assert [text for text in page.texts[place:] if text][:6] == [
        *("precision", "75.0 %", "recall", "75.0 %", "specificity", "75.0 %"),
    ]


def test_the_page_stays_small_however_large_and_many_its_pictures(tmp_path):
    """Noise compresses worst."""
    large = make_sample(shape=(1024, 2048))
    few, _ = write(tmp_path, worst=[large])
    assert max(picture.width for picture in few.pictures()[:4]) >= 512
    many = [make_sample(shape=(300, 400), name=str(i)) for i in range(16)]
    page, _ = write(tmp_path, worst=many, best=many)
    assert len(page.attributes("img")) == 128


@pytest.mark.usefixtures("without_shape_checks")
def test_a_report_is_replaced_whole_or_not_at_all(tmp_path):
    write(tmp_path)
    before = (tmp_path / "report" / "index.html").read_bytes()
    bad = make_sample()
    bad = Sample(bad.id, bad.image, bad.label[:5], bad.prediction, bad.figures)
    with pytest.raises(ValueError):
        write(tmp_path, worst=[bad])
    assert (tmp_path / "report" / "index.html").read_bytes() == before


def test_a_matrix_of_other_classes_is_refused(tmp_path):
    confusion = make_confusion(10)
    with pytest.raises(ValueError, match=r"\(10, 10\), but camvid has 11"):
        write_report(tmp_path / "r.html", title=("", ""), figures={}, confusion=confusion, dataset=CAMVID)
