"""A mistake in the command or the config gets one sentence and exit status 2."""

import forked_program
import pytest
from whole_program import assert_is_one_sentence, command, environment

MISTAKES = {
    "a field that does not exist": (["--config.model.dept=50"], "model.dept"),
    "a value of the wrong type": (["--config.batch_size=many"], "batch_size"),
    "a crop that 8 does not divide": (["--config.data.crop_size=(30,48)"], "config.data.crop_size"),
    "a missing data folder": (["--config.data.source=/nowhere", "--config.data.dir={tmp}/a"], "/nowhere"),
    "an unset data folder": (["--config.data.source=", "--config.data.dir={tmp}/b"], "config.data.source"),
    "an unknown dataset": (["--config.data.name=camvidd"], "config.data.name"),
    "a workdir that is a file": (["--workdir={tmp}/file"], "--workdir is"),
    "a data folder that cannot be made": (["--config.data.dir={tmp}/file/data"], "config.data.dir"),
    "a field given twice": (["--config.seed=1", "--config.seed=2"], "config.seed is given twice"),
    "a stray argument": (["train"], "'train'"),
    "an unknown flag": (["--confg=x"], "confg"),
    "an unknown mode": (["--mode=fly"], "mode"),
}


@pytest.fixture(scope="module")
def mistakes(folder):
    """mistake -> (its folder, how the program ended); and how it ended without a config file, and with a wrong flag."""
    folders, commands = {}, []
    for index, (mistake, (overrides, _)) in enumerate(MISTAKES.items()):
        folders[mistake] = folder / f"mistake_{index}"
        folders[mistake].mkdir()
        (folders[mistake] / "file").touch()
        overrides = [override.format(tmp=folders[mistake]) for override in overrides]
        _, _, *arguments = command(folder, folders[mistake] / "run", *overrides)
        commands.append(arguments)
    _, _, *other_flag = command(folder, folder / "run", "--images=photos", mode="eval")
    no_file = ["--config=configs/nowhere.py"]
    *results, no_file, other_flag = forked_program.run_all([*commands, no_file, other_flag], environment(devices=1))
    found = {mistake: (folders[mistake], result) for mistake, result in zip(MISTAKES, results, strict=True)}
    return found, no_file, other_flag


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_2(mistakes, mistake):
    directory, result = mistakes[0][mistake]
    assert_is_one_sentence(result, MISTAKES[mistake][1])
    assert not (directory / "run" / "config.json").exists()


@pytest.fixture(scope="module")
def without_device(folder):
    """How the program ended on a platform that does not exist: with a good config, and with a bad one."""
    good = command(folder, folder / "good")
    bad = command(folder, folder / "bad", "--config.eval.scales=(16,)")
    return forked_program.run_all([good[2:], bad[2:]], {**environment(devices=1), "JAX_PLATFORMS": "bogus"})


def test_a_device_that_is_not_there_gets_one_sentence_and_exit_2(folder, without_device):
    assert_is_one_sentence(without_device[0], "JAX finds no device")
    assert not (folder / "good" / "config.json").exists()


def test_a_value_that_cannot_work_is_refused_before_the_devices_are_asked(folder, without_device):
    _, result = without_device
    assert_is_one_sentence(result, "config.eval.scales is (16,)")
    assert not result.stdout and not (folder / "bad").exists()


def test_a_config_file_that_is_not_there_gets_one_sentence_and_exit_2(mistakes):
    _, result, _ = mistakes
    assert result.returncode == 2
    assert "configs/nowhere.py" in result.stderr and "Traceback" not in result.stderr


def test_a_flag_that_the_mode_does_not_read_is_refused(mistakes):
    *_, result = mistakes
    assert result.returncode == 2
    assert result.stderr.startswith("error: --images is given with --mode=eval, which does not read it")
