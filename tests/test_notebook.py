"""The notebook examples/cpnet_jax.ipynb is committed without outputs, and runs from top to bottom."""

import base64
import html
import json
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from cpnet_jax.data import builders
from cpnet_jax.data.catalog import SCENES

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "cpnet_jax.ipynb"
MOST_SECONDS = 1200  # of a cell, on a slow machine beside other work
# Most programs run a few times only, so optimising them takes longer than it saves.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None and not cell["metadata"], cell["id"]


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of nbclient and what it needs
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """In small sizes, without a compilation cache."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    prepare_few_scenes(tmp_path / "data", monkeypatch)
    variables = {"SMALL": "1", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XLA_FLAGS": QUICK_COMPILATION}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    nbclient.NotebookClient(notebook, timeout=MOST_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    for name, sections in {"show-report": 1, "show-prior": 1, "show-own": 2}.items():
        shown = report_pictures(outputs[name])
        assert len(shown) == sections and all(map(len, shown)), name
        assert all(is_picture(picture) for pictures in shown for picture in pictures), name
    assert len(png_pictures(outputs["run-predict"])) == 3
    assert text(outputs["compare"]).count("predict the same class in 100.00% of the pixels") == 3


def prepare_few_scenes(data_dir, monkeypatch):
    """The quickstart's dataset has 1,400 images, which takes longer to render and evaluate than all else."""
    for split, count in (("train", 8), ("val", 4)):
        monkeypatch.setitem(SCENES.splits, split, count)
    builders.prepare(SCENES, data_dir)


def text(outputs):
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def png_pictures(outputs):
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def report_pictures(outputs):
    """The pictures of the reports' sections that are shown, one list for each."""
    pages = [html.unescape(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    return [re.findall(r"data:image/\w+;base64,([\w+/=]+)", shown_section(page)) for page in pages]


def shown_section(page):
    [name] = re.findall(r"section:not\(#([\w-]+)\)", page)
    _, start, rest = page.partition(f'<section id="{name}">')
    assert start, name
    return re.split(r"<section id=|</main>", rest)[0]


def is_picture(encoded):
    return min(Image.open(BytesIO(base64.b64decode(encoded))).size) >= 64
