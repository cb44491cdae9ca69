"""A submission from the first prediction to the checked archive."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from cpnet_jax.data.catalog import Dataset
from cpnet_jax.errors import UserError
from cpnet_jax.inference.submissions.format import Format, write_zip
from cpnet_jax.inference.submissions.validation import validate

# Faults that are named, one a line.
LISTED = 20


class Submission:
    """Predictions in a folder, packed into an archive of that name beside it when all are there.

    Args:
      form: of the server.
      folder: of its PNGs; what lies there from before is left alone, and left out of the archive.
    """

    def __init__(self, form: Format, folder: Path) -> None:
        self._form, self._folder = form, folder
        self._images: list[Path] = []
        self._written: list[Path] = []

    def begin(self, dataset: Dataset, images: Sequence[Path]) -> None:
        """Raises UserError where these images, or a model of these classes, cannot make a submission."""
        self._form.check(dataset, images)
        self._images = list(images)

    def write(self, image: Path, classes: Integer[np.ndarray, "h w"]) -> None:
        """The prediction of every pixel of an image as it is stored; several threads may call it."""
        self._written.append(self._form.write(self._folder, image, classes))

    def finish(self) -> None:
        """Packs and checks. Raises UserError where the server would refuse the archive."""
        archive = self._folder.with_name(f"{self._folder.name}.zip")
        write_zip(sorted(self._written), archive)
        report(self._form, archive, self._images)


def report(form: Format, path: Path, images: Sequence[Path] | None = None) -> None:
    """Checks a submission, an archive or a folder, and says what is wrong with it.

    Args:
      images: the test images, where they are at hand: their sizes are compared.

    Raises:
      UserError: where something is.
    """
    problems = validate(form, path, images)
    if images is not None:
        counts = " or ".join(f"{count:,}" for count in form.counts)
        if len(images) not in form.counts:
            problems.append(f"{path} is of {len(images):,} images, but the test set has {counts}")
    for problem in problems[:LISTED]:
        print(f"warning: {problem}", file=sys.stderr)
    if len(problems) > LISTED:
        print(f"warning: and {len(problems) - LISTED:,} more", file=sys.stderr)
    if problems:
        raise UserError(
            f"{path} is no submission that the server of {form.dataset.name} would take: {len(problems)} fault(s) are "
            "named above"
        )
    print(f"{path} is a submission as the server of {form.dataset.name} wants it.")
