"""--mode=compare: compares trained networks on one page, from what their runs kept."""

from collections.abc import Sequence
from pathlib import Path

from cpnet_jax.errors import UserError
from cpnet_jax.evaluation.comparison.images import compare_images
from cpnet_jax.evaluation.comparison.page import text_table, write_comparison
from cpnet_jax.evaluation.comparison.runs import open_runs
from cpnet_jax.modes import Call, flags
from cpnet_jax.runtime import files
from cpnet_jax.runtime.files import AnyPath

# Images on the page.
IMAGES = 8


def compare(runs: Sequence[AnyPath], output: AnyPath) -> None:
    """Prints a table of the runs' figures and writes the page.

    Args:
      runs: workdirs, folders of evaluations and exported files; differences are to the first.
      output: the page, an HTML file.

    Raises:
      UserError: if the runs cannot be read or compared, or the page cannot be written.
    """
    found = open_runs(runs)
    if output.is_dir():
        raise UserError(f"--output={output} is a folder: name a file, for example {output / 'comparison.html'}")
    files.make_folder(output.parent, "--output")
    print(f"{text_table(found)}\n", flush=True)
    images = compare_images(found, IMAGES)
    for note in images.notes:
        print(f"Note: {note}")
    write_comparison(output, found, images)
    print(f"{output} shows them: curves, classes, {len(images.images)} image(s), configs.")


def run(call: Call) -> None:
    names = [name for value in flags.RUNS.value for name in value.split(",") if name]
    compare([files.as_path(name) for name in names], flags.path(flags.OUTPUT) or Path("comparison.html"))
