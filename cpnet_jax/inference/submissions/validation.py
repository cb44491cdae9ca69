"""Checks a submission before it is uploaded to a test server."""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from cpnet_jax.data.image_files import open_image, stored_size
from cpnet_jax.errors import said
from cpnet_jax.inference.submissions.format import Format
from cpnet_jax.runtime.progress import track

# "P": with a palette, pixel values are still class numbers.
MODES = ("L", "P")
THREADS = 4

Read = Callable[[str], bytes]


def validate(form: Format, path: Path, images: Iterable[Path] | None = None) -> list[str]:
    """Returns the faults of a submission, one sentence each, naming the file; an empty list if it is valid.

    Every value must be a class number. Servers accept some others, too, but such pixels are always wrong.

    Args:
      form: the server's format.
      path: a folder or a zip archive.
      images: the test images. There must be a prediction of each of them, of its size. If None, names and number must
        be those of a published test set.
    """
    with ExitStack() as stack:
        try:
            files, read = _open(path, stack)
        except Exception as error:  # zipfile raises exceptions of many types on damaged archives
            return [f"{path} cannot be opened as a folder or zip archive ({_reason(error)})"]
        expected = None if images is None else {form.key_of(image.name) or image.name: image for image in images}
        problems, predictions = _check_names(form, files, expected)
        problems += _check_presence(form, path, predictions, expected)

        def check(key: str) -> list[str]:
            name = predictions[key]
            image = expected.get(key) if expected else None
            return [f"{name} {fault}" for fault in _faults(form, read, name, image)]

        with ThreadPoolExecutor(THREADS) as threads:
            checked = track(threads.map(check, predictions), "Checking the submission", total=len(predictions))
            return problems + [problem for found in checked for problem in found]


def _open(path: Path, stack: ExitStack) -> tuple[list[str], Read]:
    """The names of the files, and a function that reads one."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
        return names, lambda name: (path / name).read_bytes()
    archive = stack.enter_context(zipfile.ZipFile(path))
    return [name for name in archive.namelist() if not name.endswith("/")], archive.read


def _check_names(
    form: Format, files: Iterable[str], expected: Mapping[str, Path] | None
) -> tuple[list[str], dict[str, str]]:
    """Faults of file names, and the predictions' names by key."""
    problems, predictions = [], {}
    for name in files:
        key = form.key_of(name)
        rest = name.rpartition("/")[2].removeprefix(key or "")
        if key is None or not rest.endswith(".png") or not (form.any_ending or rest == form.ending):
            problems.append(f"{name} is not named like a prediction, for example {form.name(Path(form.example))}")
        elif key in predictions:
            problems.append(f"{name} is a second prediction of {key}, beside {predictions[key]}")
        elif expected is not None and key not in expected:
            problems.append(f"{name} is a prediction of an image that was not given")
        elif not re.fullmatch(form.test_key, key):
            problems.append(f"{name} is a prediction of no test image")
        else:
            predictions[key] = name
    return problems, predictions


def _check_presence(
    form: Format, path: Path, predictions: Mapping[str, str], expected: Mapping[str, Path] | None
) -> list[str]:
    if expected is not None:
        return [f"{path} has no prediction of {image}" for key, image in expected.items() if key not in predictions]
    if len(predictions) in form.counts:
        return []
    counts = " or ".join(f"{count:,}" for count in form.counts)
    return [f"{path} has predictions of {len(predictions):,} test images, but the test set has {counts}"]


def _faults(form: Format, read: Read, name: str, image: Path | None) -> list[str]:
    """The faults of one prediction, without its name."""
    try:
        picture = open_image(read(name))
    except Exception as error:  # as above
        return [f"cannot be read ({_reason(error)})"]
    if picture.format != "PNG":
        return [f"is a {picture.format} file, not a PNG"]
    if picture.mode not in MODES:
        return [f"is a {picture.mode} image: values must be 8-bit class numbers in one channel"]
    return _size_faults(form, picture, image) + _value_faults(form, picture)


def _size_faults(form: Format, picture: Image.Image, image: Path | None) -> list[str]:
    size, of_what = form.size, "test images"
    if image is not None:
        try:
            size, of_what = stored_size(image), str(image)
        except (OSError, ValueError) as error:
            return [f"cannot be compared with {image}, which cannot be read ({_reason(error)})"]
    if size is None or picture.size == size:
        return []
    return [f"is {picture.width}x{picture.height}, but {of_what} {'is' if image else 'are'} {size[0]}x{size[1]}"]


def _value_faults(form: Format, picture: Image.Image) -> list[str]:
    found = {value for value, count in enumerate(picture.histogram()) if count}
    wrong = sorted(found - set(form.values))
    if not wrong:
        return []
    some = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
    return [
        f"holds the values {some}, which are not classes of {form.dataset.name}: its values are {_span(form.values)}"
    ]


def _span(values: tuple[int, ...]) -> str:
    contiguous = values == tuple(range(values[0], values[-1] + 1))
    return f"{values[0]} to {values[-1]}" if contiguous else ", ".join(map(str, values))


def _reason(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or said(error) or type(error).__name__
    return words.split(" <")[0]  # drops the stream's address from Pillow's message
