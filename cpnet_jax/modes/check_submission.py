"""--mode=check_submission: whether a benchmark's server would take an archive."""

from collections.abc import Sequence
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import find_images
from cpnet_jax.inference.submissions import FORMATS
from cpnet_jax.inference.submissions.submission import report


def check_submission(benchmark: str | None, archive: Path | None, images: Sequence[str]) -> None:
    """Says so, or names every fault.

    Args:
      benchmark: "cityscapes" or "ade20k".
      archive: a zip archive or a folder.
      images: the test images, where they are at hand: files, folders, patterns.

    Raises:
      UserError: where something is wrong, or not said.
    """
    if benchmark is None or archive is None:
        raise UserError("--mode=check_submission needs --submission=cityscapes or ade20k, and --archive=FILE.zip")
    if not archive.exists():
        raise UserError(f"--archive is {archive}, which does not exist: name a zip archive or a folder")
    found = [image.path for image in find_images(images).images] if images else None
    report(FORMATS[benchmark], archive, found)
