"""--mode=check_submission: checks whether a benchmark's server would accept an archive."""

from collections.abc import Sequence
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.inference.inputs import find_images
from cpnet_jax.inference.submissions import FORMATS
from cpnet_jax.inference.submissions.submission import report
from cpnet_jax.modes import Call, flags


def check_submission(benchmark: str | None, archive: Path | None, images: Sequence[str]) -> None:
    """Prints that the submission is valid, or its faults.

    Args:
      benchmark: "cityscapes" or "ade20k".
      archive: a zip archive or a folder.
      images: files, folders or patterns of the test images; may be empty.

    Raises:
      UserError: if an argument is missing or the submission has a fault.
    """
    if benchmark is None or archive is None:
        raise UserError("--mode=check_submission needs --submission=cityscapes or ade20k, and --archive=FILE.zip")
    if not archive.exists():
        raise UserError(f"--archive is {archive}, which does not exist: name a zip archive or a folder")
    found = [image.path for image in find_images(images).images] if images else None
    report(FORMATS[benchmark], archive, found)


def run(call: Call) -> None:
    check_submission(flags.SUBMISSION.value, flags.local_path(flags.ARCHIVE), flags.IMAGES.value)
