"""The local page: what a browser shows of a picture, what happens to uploads, and that nothing leaves the machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import evaluated_runs
import numpy as np
import pytest
from browser import DESKTOP, PHONE, PROGRAMS, opened, started
from PIL import Image
from raw_data import save

from cpnet_jax import sharding
from cpnet_jax.demo.picture import make_predict
from cpnet_jax.inference.load import from_workdir

pytestmark = [
    pytest.mark.usefixtures("small_backbone_in_module"),
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install gradio"),
]
CLASSES = ("<img src=x onerror=\"document.title='broken'\">", "\u05e9\u05de\u05d9\u05dd 7", "</script> " + "x" * 180)
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with hostile class names."""
    root = tmp_path_factory.mktemp("run")
    evaluated_runs.write(root / "own", {"val": 2, "train": 9}, classes=CLASSES)
    return evaluated_runs.make(root)


class Demo:
    """A process of --mode=demo."""

    def __init__(self, workdir, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uploads, self.addresses, self.output = folder / "tmp", folder / "addresses", folder / "output"
        self.uploads.mkdir()
        self.url = f"http://127.0.0.1:{self.port}/"
        program = [sys.executable, str(HERE / "audited_program.py"), str(self.addresses)]
        self.process = subprocess.Popen(
            # If the tests run in the background, they and their children ignore SIGINT.
            ["env", "--default-signal=INT", *program, "--mode=demo", f"--workdir={workdir}", f"--port={self.port}"],
            env={**os.environ, "TMPDIR": str(self.uploads), "PYTHONPATH": str(HERE.parents[1])},
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self):
        end = time.monotonic() + 300
        while "Press Ctrl-C" not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()
            time.sleep(0.1)

    def kept(self):
        """The uploads that are still on the disk. Gradio leaves empty files."""
        return [path for path in self.uploads.glob("cpnet_demo_*/**/*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def demo(workdir, tmp_path_factory):
    found = Demo(workdir, tmp_path_factory.mktemp("demo"))
    try:
        found.wait()
        yield found
    finally:
        found.process.kill()
        found.process.wait()


@pytest.fixture(scope="module", params=list(PROGRAMS))
def browser(request):
    with started(request.param) as found:
        yield found


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser, demo):
    found = opened(browser, demo.url, {"desktop": DESKTOP, "phone": PHONE}[request.param])
    yield found.page
    assert all(address.startswith(demo.url) for address in found.requests)
    assert [error for error in found.errors if "Method not implemented" not in error] == []
    assert found.page.locator("text=Press Ctrl-C").count() == 0
    found.page.context.close()


def drop(page, path):
    """Uploads a file; the frame with its prediction, or the sentence about what is wrong with it."""
    # Gradio changes some characters of names, so a new answer is one that was not there before.
    page.evaluate("document.querySelectorAll('#result iframe, #result .error').forEach(e => e.classList.add('old'))")
    page.locator("#upload input[type=file]").set_input_files(str(path))
    shown = page.locator("#result iframe:not(.old), #result .error:not(.old)").first
    shown.wait_for(timeout=120_000)
    if shown.evaluate("element => element.tagName") == "P":
        return shown.inner_text()
    frame = shown.element_handle().content_frame()
    frame.wait_for_function("document.querySelector('.touch-text')?.textContent")
    return frame


def picture(folder, name="street.png", size=(40, 56), **options):
    rng = np.random.default_rng(0)
    path = folder / name
    pixels = (60 * rng.integers(0, 3, (size[0] // 8, size[1] // 8, 1))).repeat(8, 0).repeat(8, 1).repeat(3, 2)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


def point_at(page, frame, row, column, size):
    box = frame.locator("#stage").bounding_box()
    page.mouse.move(
        box["x"] + (column + 0.5) * box["width"] / size[1], box["y"] + (row + 0.5) * box["height"] / size[0]
    )


def test_the_page_shows_the_networks_probabilities_under_the_pointer(page, workdir, tmp_path):
    path = picture(tmp_path)
    model = from_workdir(workdir, sharding.make_mesh())
    expected = make_predict(model, sharding.make_mesh())(path).probabilities
    frame = drop(page, path)
    frame.locator("#stage").scroll_into_view_if_needed()
    for row, column in ((3, 5), (39, 55), (20, 11)):
        point_at(page, frame, row, column, expected.shape[:2])
        best = expected[row, column].argsort()[::-1]
        assert frame.locator("#where").inner_text().startswith(f"Row {row}, column {column}: ")
        shown = frame.locator("#likely li")
        assert shown.locator(".name").all_inner_texts() == [CLASSES[k] for k in best]
        found = [int(text.split()[0]) for text in shown.locator(".value").all_inner_texts()]
        np.testing.assert_allclose(found, 100 * expected[row, column][best], atol=1)
    frame.locator("#stage").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    assert frame.locator("#where").inner_text().startswith("Row 19, column 1: ")


def test_the_legend_lists_the_shares_and_shows_one_class_alone(page, workdir, tmp_path):
    path = picture(tmp_path)
    model = from_workdir(workdir, sharding.make_mesh())
    classes = make_predict(model, sharding.make_mesh())(path).classes
    frame = drop(page, path)
    share = np.bincount(classes.ravel(), minlength=3) / classes.size
    order = [k for k in np.argsort(-share, kind="stable") if share[k]]
    assert frame.locator("#legend small").all_inner_texts() == [f"{100 * share[k]:.1f} %" for k in order]
    visible = """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return d.filter((v, i) => i % 4 === 3 && v > 0).length }"""
    canvas = frame.locator("#classes")
    assert canvas.evaluate(visible) == classes.size
    frame.locator("#legend button").first.click()
    assert canvas.evaluate(visible) == (classes == order[0]).sum()
    frame.locator("#legend button").first.click()
    assert canvas.evaluate(visible) == classes.size


def test_the_context_prior_of_the_window_can_be_touched(page, tmp_path):
    frame = drop(page, picture(tmp_path))
    pane = frame.locator(".touch-pane").first
    pane.scroll_into_view_if_needed()
    box = pane.bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    rows, columns = (side // 8 for side in evaluated_runs.CROP)
    assert frame.locator(".touch-text").inner_text().startswith(f"Row of position {rows - 1}, {columns - 1}")
    assert frame.locator("figcaption").nth(2).inner_text() == "ideal, by the prediction"


def test_pictures_of_every_kind_are_read_as_predictions_read_them(page, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.random.default_rng(0).integers(0, 65536, (24, 40)).astype(np.uint16)
    save(tmp_path / "deep.png", deep)
    Image.new("CMYK", (40, 24), (90, 20, 0, 40)).save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    frames = [Image.new("RGB", (40, 24), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    picture(tmp_path, "turned.jpg", (24, 40), exif=turned)
    sizes = {"deep.png": "40 x 24", "cmyk.jpg": "40 x 24", "one.png": "1 x 1", "moving.gif": "40 x 24"}
    for name, size in {**sizes, "turned.jpg": "24 x 40"}.items():
        frame = drop(page, tmp_path / name)
        assert frame.locator("h1").inner_text() == name
        assert frame.locator("p").first.inner_text().startswith(f"{size} pixels")


def test_files_that_are_no_pictures_get_a_sentence(page, demo, tmp_path):
    (tmp_path / "page.jpg").write_text("<!doctype html><script>document.title = 'broken'</script>")
    assert drop(page, tmp_path / "page.jpg") == "page.jpg cannot be read: it is a web page or an SVG drawing"
    assert page.title() != "broken"


def test_hostile_names_do_nothing_but_look_odd(page, tmp_path):
    path = picture(tmp_path, "'onload=alert(1) \u202e&lt;b&gt;.png")
    frame = drop(page, path)
    assert page.title().startswith("tiny, step 7") and frame.title() != "broken"
    assert frame.locator("img[onerror]").count() == 0 and frame.locator("b b").count() == 0
    assert not frame.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_larger_pictures_are_shrunk_and_the_page_says_so(page, tmp_path):
    frame = drop(page, picture(tmp_path, "large.png", (800, 1200)))
    assert frame.locator("p").first.inner_text().startswith("1200 x 800 pixels, predicted at 96 x 64.")


def test_too_many_bytes_are_refused(page, demo, tmp_path):
    path = picture(tmp_path, "long.png")
    with path.open("ab") as file:
        file.truncate(40 * 2**20)
    page.locator("#upload input[type=file]").set_input_files(str(path))
    page.locator("text=exceed").first.wait_for()


def test_uploads_are_deleted_when_they_have_been_read(page, demo, tmp_path):
    drop(page, picture(tmp_path, "gone.png"))
    assert demo.kept() == []
    (tmp_path / "page.jpg").write_text("<html>")
    drop(page, tmp_path / "page.jpg")
    assert demo.kept() == []


def test_other_hosts_are_refused_and_pages_may_load_from_this_one_only(demo):
    with urllib.request.urlopen(demo.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "connect-src 'self'" in policy
        assert not re.search(r"https?:", policy)
        # What a browser would load by itself.
        loaded = re.findall(r'<(?:script|link|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', answer.read().decode())
        assert [url for url in loaded if not url.startswith(demo.url)] == []
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(demo.url, headers={"Host": "evil.example"}))
    assert caught.value.code == 400


def test_it_connects_to_nothing_but_itself_and_ctrl_c_deletes_all_files(workdir, tmp_path):
    """Nothing is uploaded, so that this also holds at the start, when Gradio would ask for newer versions."""
    demo = Demo(workdir, tmp_path)
    demo.wait()
    taken = subprocess.run(
        [
            sys.executable,
            str(HERE.parent / "small_main.py"),
            "--mode=demo",
            f"--workdir={workdir}",
            f"--port={demo.port}",
        ],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
    )
    assert taken.returncode == 2, taken.stderr
    assert f"error: --port is {demo.port}, which cannot be used (Address already in use): name another" in taken.stderr
    assert list(demo.uploads.glob("cpnet_demo_*"))
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(timeout=300) == 130, demo.output.read_text()
    assert "SIGINT: stopped at once" in demo.output.read_text() and "Traceback" not in demo.output.read_text()
    assert list(demo.uploads.glob("cpnet_demo_*")) == []
    assert {*demo.addresses.read_text().split()} <= {"127.0.0.1", "localhost"}
