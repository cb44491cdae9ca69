"""metrics.jsonl and TensorBoard survive damage, and a failure to write them waits until the steps are saved."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.training.metrics import EVALUATED, MetricsWriter, is_published

GOOD = b'{"step": 1, "loss": 2.0}\n'
DAMAGED_LINES = [
    b'{"step": 2, "loss": "\xff\xfe"}\n',
    b'{"step": null}\n',
    b'{"step": "2"}\n',
    b'{"step": [2]}\n',
    b'{"step": NaN}\n',
    b'{"step": 1' + b"0" * 5000 + b"}\n",
    b"[2]\n",
    b"null\n",
    b"\n",
    b"[" * 100_000 + b"\n",
    b'{"step": 2, "lo\n',
]


def opened(workdir, step=3):
    return MetricsWriter(workdir, step, on_failure=pytest.fail)


@pytest.mark.parametrize("line", DAMAGED_LINES, ids=range(len(DAMAGED_LINES)))
def test_a_damaged_line_is_dropped_and_said(tmp_path, capsys, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD + line + b'{"step": 3, "loss": 1.0}\n')
    with opened(tmp_path) as writer:
        writer.write(4, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3, 4]
    assert f"Note: {path} has 1 damaged line(s), the first one is line 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_what_is_in_the_place_of_a_log_is_named(tmp_path, name):
    if name == "tensorboard":
        (tmp_path / name).write_text("in the way")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be written .*move away what is there"):
        opened(tmp_path)


def test_a_failure_to_write_is_raised_by_check_and_not_before(tmp_path, monkeypatch):
    called = []
    with pytest.raises(UserError, match=r"metrics.jsonl or .*No space left on device"):  # noqa: SIM117
        with MetricsWriter(tmp_path, 0, on_failure=lambda: called.append(1)) as writer:
            writer.write(1, {"loss": 1.0})

            def fail(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(writer._file, "write", fail)
            for step in (2, 3):
                writer.write(step, {"loss": 1.0})
            assert called == [1]
            writer.check()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_only_a_whole_entry_says_that_an_evaluation_is_published(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert not is_published(tmp_path, 4)
    with opened(tmp_path, 0) as writer:
        writer.write(4, {"loss": 1.0})
        assert not is_published(tmp_path, 4)
        writer.write(4, {"mIoU": 0.5, EVALUATED: 1.0})
    assert is_published(tmp_path, 4) and not is_published(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-4])
    assert not is_published(tmp_path, 4)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_any_damage_is_dropped_and_the_rest_is_kept(tmp_path, count):
    path = Path(tmp_path / "metrics.jsonl")
    whole = b"".join(b'{"step": %d, "mIoU": 0.5, "evaluation_seconds": 1.0}\n' % step for step in range(1, 9))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(0, len(data)))
            data[place : place + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        path.write_bytes(data)
        is_published(tmp_path, 4)
        with opened(tmp_path, 8):
            pass
        kept = path.read_bytes().splitlines()
        assert len(kept) >= 4 and all(json.loads(line)["step"] <= 8 for line in kept)
        for file in (tmp_path / "tensorboard").iterdir():
            file.unlink()
