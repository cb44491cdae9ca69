"""Whole runs under odd umasks, with bad temporary folders and names, and on full disks."""

import shutil
import signal

import pytest
from faults.disks import fill, mounted
from faults.tiny_run import Run, assert_as_uninterrupted

pytestmark = pytest.mark.long


def finish(folder, workdir, reference, **options):
    with Run(folder, workdir, **options) as run:
        assert run.status() == 0, run.output()
    assert_as_uninterrupted(workdir, reference)
    return run


def permissions(folder):
    """Relative path -> permission bits of every file and folder."""
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o7777 for path in folder.rglob("*")}


def test_a_run_under_umask_000_resumes_under_077(folder, undisturbed):
    workdir = folder / "umask"
    with Run(folder, workdir, umask=0, eval_every=4) as run:
        assert run.until_trained(4), run.output()
        run.send(signal.SIGTERM)
        assert run.status() == 75, run.output()
    before = permissions(workdir)
    assert set(before.values()) == {0o666, 0o777}, before
    finish(folder, workdir, undisturbed, umask=0o077, eval_every=4)
    new = {name: bits for name, bits in permissions(workdir).items() if name not in before}
    assert set(new.values()) == {0o600, 0o700}, new


def test_a_workdir_that_looks_like_a_pattern_is_refused_before_a_step_is_taken(folder, undisturbed):
    """Orbax would save checkpoints there that it cannot read."""
    with Run(folder, folder / "run [1]") as run:
        run.assert_refused("--workdir is", "run [1], whose full name has")
    assert not run.workdir.exists()


@pytest.mark.parametrize("kind", ["missing", "ro"])
def test_a_bad_temporary_folder_stops_no_run(folder, undisturbed, kind):
    temporary, workdir = folder / f"tmp {kind}", folder / f"with tmp {kind}"
    options = {"environment": {"TMPDIR": str(temporary)}, "system.workers": 1}
    if kind == "missing":
        finish(folder, workdir, undisturbed, **options)
    else:
        with mounted(temporary, kind):
            finish(folder, workdir, undisturbed, **options)


@pytest.mark.parametrize("mode", ["predict", "eval", "export"])
def test_a_full_disk_is_named_by_every_mode_that_writes(folder, undisturbed, mode):
    flags = [f"--images={folder}/camvid/val"] if mode == "predict" else []
    with mounted(folder / f"full at {mode}", "size=1g") as disk:
        workdir = shutil.copytree(folder / "undisturbed", disk / "run")
        fill(disk)
        with Run(folder, workdir, *flags, mode=mode) as run:
            run.assert_refused(workdir, "No space left on device")
        (disk / "filler").unlink()
        with Run(folder, workdir, *flags, mode=mode) as run:
            assert run.status() == 0, run.output()
