"""Writes a folder with all that a run needs on a machine without network: wheels, prepared CamVid, and a script.

    python benchmarks/bundle.py --source=FOLDER [--out=bundle] [--python=3.12] [--have=FILE] [--jpeg_quality=88]

- OUT/wheels: the packages in requirements.txt, for Linux on x86-64 and the given Python, except those that --have
  lists. FILE is the output of `pip freeze` there.
- OUT/data: CamVid's records, with images as JPEG, from the raw dataset in --source.
- OUT/run.sh: installs the wheels into a temporary folder, and runs benchmarks/accelerator.py.

docs/offline.md says how to use it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from cpnet_jax.data import builders, catalog
from cpnet_jax.errors import UserError
from cpnet_jax.runtime import exit_status

ROOT = Path(__file__).resolve().parents[1]
# pip compares platforms literally, so that older ones must be listed as well.
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
]
# Packages in pure Python that are published as source only.
SOURCES = ("promise",)


def write_wheels(folder: Path, python: str, have: Path) -> None:
    """Downloads the wheels of all packages in requirements.txt, except those that a file lists."""
    present = set(packages(have))
    needed = {name: line for name, line in packages(ROOT / "requirements.txt").items() if name not in present}
    built = [needed.pop(name) for name in SOURCES if name in needed]
    folder.mkdir(parents=True)
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={platform}" for platform in PLATFORMS]
    _pip("download", f"--dest={folder}", *target, *needed.values())
    if built:
        _pip("wheel", f"--wheel-dir={folder}", *built)


def _pip(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"pip could not fetch the packages: {done.stderr.strip().splitlines()[-1]}")


def packages(file: Path) -> dict[str, str]:
    """Name -> line of a requirements file, or of the output of `pip freeze`."""
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    # Names are equal whatever their case and separators.
    return {re.sub(r"[-_.]+", "-", re.split(r"[=<>@ \[]", line)[0]).lower(): line for line in lines if line}


def write_records(folder: Path, source: Path, quality: int) -> None:
    """Prepares CamVid with its images as JPEG, which take a quarter of the space."""
    with tempfile.TemporaryDirectory() as made:
        for path in sorted(source.glob("*/*.png")):
            copy = Path(made, *path.relative_to(source).parts)
            copy.parent.mkdir(exist_ok=True)
            if path.parent.name.endswith("annot"):
                shutil.copy(path, copy)
            else:
                # The builder goes by names and stores JPEGs unchanged.
                options = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
                copy.write_bytes(cv2.imencode(".jpg", cv2.imread(str(path)), options)[1].tobytes())
        builders.prepare(catalog.CAMVID, folder, made)


def write(arguments: argparse.Namespace) -> None:
    if arguments.out.exists():
        raise UserError(f"--out={arguments.out} exists: delete it or name another folder")
    if not arguments.have.is_file():
        raise UserError(f"--have={arguments.have} does not exist: write it with `pip freeze > FILE` on that machine")
    write_records(arguments.out / "data", arguments.source, arguments.jpeg_quality)
    write_wheels(arguments.out / "wheels", arguments.python, arguments.have)
    shutil.copy(ROOT / "benchmarks" / "run.sh", arguments.out)
    sizes = {part: _bytes(arguments.out / part) for part in ("data", "wheels")}
    print(", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in sizes.items()))
    print(f"{arguments.out}: {sum(sizes.values()) / 1e6:.1f} MB")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="the raw CamVid")
    parser.add_argument("--out", type=Path, default=ROOT / "bundle")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--have", type=Path, default=ROOT / "benchmarks" / "cuda_image.txt", help="packages there")
    parser.add_argument("--jpeg_quality", type=int, default=88, help="1 to 100")
    write(parser.parse_args())


if __name__ == "__main__":
    exit_status.run(main)
