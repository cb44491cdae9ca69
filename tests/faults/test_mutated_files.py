"""No damaged file ends the program otherwise than by a sentence, makes it hang or kills it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.mutated_files import KINDS

ROOT = Path(__file__).parents[2]


def outcomes(kinds: list[str], count: int, folder: Path, timeout: float) -> list[dict]:
    """Reads `count` mutated files of each kind in a separate process, because a decoder may crash it."""
    program = [sys.executable, Path(__file__).with_name("mutated_files.py"), count, 0, *kinds]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OPENCV_LOG_LEVEL": "SILENT"}
    result = subprocess.run(
        list(map(str, program)), cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, f"status {result.returncode}\n{result.stdout}{result.stderr[-2000:]}"
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_damaged_files_are_read_or_refused(tmp_path):
    found = outcomes(list(KINDS), 250, tmp_path, timeout=300)
    assert [kind["kind"] for kind in found] == list(KINDS)
    assert all(kind["read"] + kind["refused"] == 250 and kind["read"] and kind["refused"] for kind in found)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_read_or_refused(kind, tmp_path):
    count = int(os.environ.get("MUTATED_FILES", 100_000)) // len(KINDS)
    [found] = outcomes([kind], count, tmp_path, timeout=3600)
    print(f"{kind}: {found['read']} read, {found['refused']} refused")
