"""A source in CamVid's layout, what is wrong in it, and the report of --mode=check_data on it."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from configs import camvid
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data

VOID, SIZE = 11, (64, 96)
COUNTS = {"train": 6, "val": 3}


def label_of(seed: int) -> np.ndarray:
    """Raw label with blocks of 16 pixels, two of each class and two of void."""
    blocks = np.random.default_rng(seed).permutation(np.arange(24) % 12).reshape(4, 6)
    return blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def image_of(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng([1, seed]).integers(0, 256, (*size, 3)).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, encoding: str = "PNG", **options) -> bytes:
    stream = BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(stream, encoding, **options)
    return stream.getvalue()


class Tree:
    """Source in CamVid's layout."""

    def __init__(self, root: Path, relabel: Callable[[np.ndarray], np.ndarray] = lambda label: label) -> None:
        self.root, self._seed = root, 0
        for split, count in COUNTS.items():
            for index in range(count):
                self.add(f"{split}/{index}", label=encoded(relabel(label_of(self._seed + 1))))

    def add(self, name: str, *, image: bytes | None = None, label: bytes | None = None) -> None:
        """Add a pair; image and label are sound by default."""
        self._seed += 1
        split, stem = name.split("/")
        self.write(f"{split}/{stem}.png", encoded(image_of(self._seed)) if image is None else image)
        self.write(f"{split}annot/{stem}.png", encoded(label_of(self._seed)) if label is None else label)

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)


def plant_all(tree: Tree) -> dict[str, dict[str, str]]:
    """Add every problem that one pair can have; returns kind -> file -> text that the finding's detail must hold."""
    whole, wrong = encoded(image_of(90)), label_of(91)
    wrong[:2, :2], wrong[5, 7] = 12, 200
    palette = Image.fromarray(label_of(92))
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    tree.add("train/palette", label=encoded(palette))  # a sound pair
    tree.write("train/alone_1.png", whole)
    tree.write("train/alone_2.png", whole)
    tree.write("valannot/alone.png", encoded(label_of(0)))
    tree.add("train/cut", image=whole[: len(whole) // 2])
    tree.add("train/text", image=b"404: Not Found")
    tree.add("val/empty", image=b"")
    tree.add("train/label_cut", label=encoded(label_of(93))[:60])
    tree.add("train/colours", label=encoded(image_of(94)))
    tree.add("train/lossy", label=encoded(label_of(95), "JPEG"))
    tree.add("val/small", label=encoded(label_of(96)[:60, :90]))
    tree.add("train/on_its_side", image=encoded(image_of(97, SIZE[::-1]), "JPEG", exif=exif))
    tree.add("train/wrong", label=encoded(wrong))
    tree.add("train/twice", image=(tree.root / "train/1.png").read_bytes())
    tree.add("val/leak", image=encoded(Image.open(tree.root / "train/2.png"), compress_level=1))
    tree.add("train/void", label=encoded(np.full(SIZE, VOID, np.uint8)))
    tree.add("train/turned", image=encoded(image_of(98), "JPEG", exif=exif))
    tree.add("train/grey", image=encoded(image_of(99)[..., 0]))
    tree.add("train/alpha", image=encoded(np.dstack([image_of(100), image_of(101)[..., 0]])))
    tree.add("train/cmyk", image=encoded(Image.fromarray(image_of(102)).convert("CMYK"), "JPEG"))
    tree.add("train/deep", image=encoded(image_of(103)[..., 0].astype(np.uint16) * 256))
    return {
        "image_without_label": {"train/alone_1.png": "trainannot", "train/alone_2.png": "trainannot"},
        "label_without_image": {"valannot/alone.png": "val/"},
        "image_unreadable": {"train/cut.png": "truncated", "train/text.png": "not a JPEG", "val/empty.png": ""},
        "label_unreadable": {"trainannot/label_cut.png": "cannot be read"},
        "label_no_indices": {"trainannot/colours.png": "RGB"},
        "label_lossy": {"trainannot/lossy.png": ""},
        "size_mismatch": {"valannot/small.png": "90x60, image 96x64", "trainannot/on_its_side.png": "EXIF"},
        "unknown_values": {"trainannot/wrong.png": "12 (4 pixels), 200 (1 pixel)"},
        "in_two_splits": {"val/leak.png": "train/2.png, with another label"},
        "duplicate_image": {"train/twice.png": "train/1.png, with another label"},
        "all_ignored": {"trainannot/void.png": "11"},
        "image_turned": {"train/on_its_side.png": "6", "train/turned.png": "6"},
        "image_grey": {"train/grey.png": "L"},
        "image_transparent": {"train/alpha.png": "RGBA"},
        "image_cmyk": {"train/cmyk.png": "CMYK"},
        "image_deep": {"train/deep.png": "16 bits"},
        "split_size": {"train": "21 pairs here, 367", "val": "6 pairs here, 101", "test": "0 pairs"},
    }


def config_for(source: Path, data_dir: Path, threads: int = 3):
    config = camvid.get_config()
    config.data.source, config.data.dir, config.system.threads = str(source), str(data_dir), threads
    return config


def check(source: Path, folder: Path, *, threads: int = 3) -> dict:
    """Examine a source and return the report, read as strict JSON."""
    try:
        check_data(config_for(source, folder / "data", threads), folder / "run")
        sound = True
    except UserError as error:
        assert "report.json" in str(error) and str(source) in str(error) and error.exit_status == 2
        sound = False

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((folder / "run/check_data/report.json").read_text(), parse_constant=refuse)
    assert report["sound"] == sound
    assert any(found["fault"] for found in report["findings"]) == (not sound)
    return report


def found_in(report: dict) -> dict[str, dict[str, str]]:
    """Kind -> where -> detail."""
    for found in report["findings"]:
        assert found["count"] == len(found["where"]) == len({item["where"] for item in found["where"]})
    return {found["kind"]: {item["where"]: item["detail"] for item in found["where"]} for found in report["findings"]}
