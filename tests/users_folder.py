"""A user's folder of images, masks and a class file, written small, and what is read from it."""

from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import folder as folder_config
from cpnet_jax.data import builders
from cpnet_jax.data.catalog import FolderLayout
from cpnet_jax.data.records import decode_record
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError

IGNORED = 255
COLOURS = ((128, 64, 128), (70, 130, 180), (107, 142, 35))
NAMES = ("road", "sky", "tree")
PLAIN = "road\nsky\ntree\n"
COLOURED = "road 128 64 128\nsky #4682b4\ntree 107,142,35\nignore 0 0 0\n"
decode3 = partial(decode_record, num_classes=3, ignore_label=IGNORED)


def ids(index: int) -> np.ndarray:
    """Training ids with all classes and ignored pixels; the size differs between indices."""
    label = np.random.default_rng(index).integers(0, 3, (10 + index, 14)).astype(np.uint8)
    label[0, :4] = (0, 1, 2, IGNORED)
    return label


def picture(index: int) -> Image.Image:
    pixels = np.random.default_rng([1, index]).integers(0, 256, (10 + index, 14, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def shown(label: np.ndarray) -> np.ndarray:
    """Map training ids to the colours of the class file; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLOURS
    return table[label]


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write(root: Path, count: int = 4, *, image="images/{}.png", mask="masks/{}.png", classes=PLAIN, names=None) -> Path:
    """Write `count` pairs; "{}" in the file names is replaced by a0, a1 ... or the given names."""
    for index, name in enumerate(names or [f"a{index}" for index in range(count)]):
        save(picture(index), root / image.format(name))
        save(Image.fromarray(ids(index)), root / mask.format(name))
    (root / "classes.txt").write_text(classes)
    return root


def prepare(source: Path, data_dir: Path, **layout) -> builders.FolderBuilder:
    dataset = builders.describe_folder(source, FolderLayout(**layout))
    return builders.prepare(dataset, data_dir, source)


def config_for(source: Path, data_dir: Path) -> ConfigDict:
    config = folder_config.get_config()
    config.data.source, config.data.dir = str(source), str(data_dir)
    return config


def examples_of(builder) -> dict[str, dict]:
    """Return id -> example, of all splits."""
    splits = [builders.records(builder, split) for split in builder.info.splits]
    return {example["id"]: example for records in splits for example in examples(records, decode=decode3)}


def assert_one_sentence(error: UserError, *named: str) -> None:
    assert all(name in str(error) for name in named), str(error)
    assert "\n" not in str(error) and error.exit_status == 2


def paletted(label: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.fromarray(label)
    image.putpalette(palette)
    return image


SHUFFLED = np.array([2, 0, 1], np.uint8)  # the order in which a tool that shrinks PNGs might number the colours

MASK, IMAGE = "masks/a1.png", "images/a1.png"


def repaint(pixel: object, encode=Image.fromarray):
    """Put a pixel into a mask, at x=5, y=3."""

    def damage(root: Path) -> None:
        label = encode(ids(1))
        label.putpixel((5, 3), pixel)
        label.save(root / MASK)

    return damage


def in_colours(root: Path) -> None:
    (root / "classes.txt").write_text(COLOURED)
    for index in range(4):
        save(Image.fromarray(shown(ids(index))), root / f"masks/a{index}.png")


def coloured(label: np.ndarray) -> Image.Image:
    return Image.fromarray(shown(label))
