"""Collects predictions into a submission, packs it and checks the archive."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.submissions.format import Format, write_zip
from cpnet_jax.inference.submissions.validation import validate

# At most this many faults are printed.
LISTED = 20


class Submission:
    """A submission: PNGs in a folder, finally packed into the archive FOLDER.zip.

    Args:
      form: the server's format.
      folder: folder for the PNGs. Earlier files in it are neither changed nor packed.
    """

    def __init__(self, form: Format, folder: Path) -> None:
        self._form, self._folder = form, folder
        self._images: list[Path] = []
        self._written: list[Path] = []

    def begin(self, dataset: Dataset, images: Sequence[Path]) -> None:
        """Sets the images; raises UserError if they, or the model's classes, do not fit the format."""
        self._form.check(dataset, images)
        self._images = list(images)

    def write(self, image: Path, classes: Integer[np.ndarray, "h w"]) -> None:
        """Writes the prediction of an image as stored; thread-safe."""
        self._written.append(self._form.write(self._folder, image, classes))

    def finish(self) -> None:
        """Packs and checks the archive; raises UserError if the server would reject it."""
        archive = self._folder.with_name(f"{self._folder.name}.zip")
        write_zip(sorted(self._written), archive)
        report(self._form, archive, self._images)


def report(form: Format, path: Path, images: Sequence[Path] | None = None) -> None:
    """Checks a submission, an archive or a folder, and prints its faults.

    Args:
      images: the test images, to compare sizes; None if not available.

    Raises:
      UserError: if the submission has a fault.
    """
    problems = validate(form, path, images)
    if images is not None:
        counts = " or ".join(f"{count:,}" for count in form.counts)
        if len(images) not in form.counts:
            problems.append(f"{path} has predictions of {len(images):,} images, but the test set has {counts}")
    for problem in problems[:LISTED]:
        print(f"warning: {problem}", file=sys.stderr)
    if len(problems) > LISTED:
        print(f"warning: and {len(problems) - LISTED:,} more", file=sys.stderr)
    if problems:
        raise UserError(
            f"{path} would be rejected by the server of {form.dataset.name}: correct the {len(problems)} fault(s) "
            "listed above"
        )
    print(f"{path} is a valid submission for the server of {form.dataset.name}.")
