"""Progress lines while waiting for a process."""

import subprocess
import sys

import pytest

from cpnet_jax.plan import waiting


@pytest.mark.parametrize(("expected", "said"), [(None, "minutes"), (90.0, "of about 01:30")])
def test_the_elapsed_and_expected_time_are_shown(monkeypatch, capsys, expected, said):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.5)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.6)"]) as process:
        waiting.wait(process, "Compiling", expected=expected, note=", 2 of 3")
    assert process.returncode == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("Compiling for 00:01") and said in first and first.endswith(", 2 of 3")
