"""An experiment is found by its path or its name: as given, in ./configs, then among those of the package."""

import pytest

from cpnet_jax.config import experiments
from cpnet_jax.config.experiments import SHIPPED


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["ade20k", "ade20k.py", "configs/ade20k", "configs/ade20k.py"])
def test_experiments_of_the_package_are_found_in_any_folder(name):
    assert experiments.find(name) == SHIPPED / "ade20k.py"


@pytest.mark.parametrize("name", ["ablations/scenes", "configs/ablations/scenes.py"])
def test_experiments_in_folders_are_found(name):
    assert experiments.find(name) == SHIPPED / "ablations" / "scenes.py"


def test_the_users_experiments_come_before_those_of_the_package(folder):
    (folder / "configs").mkdir()
    (folder / "configs" / "ade20k.py").touch()
    assert experiments.find("ade20k").resolve() == folder / "configs" / "ade20k.py"
    (folder / "ade20k").touch()
    assert experiments.find("ade20k").resolve() == folder / "ade20k"


def test_dots_in_a_name_are_kept(folder):
    (folder / "configs").mkdir()
    (folder / "configs" / "lr_0.1.py").touch()
    assert experiments.find("lr_0.1").resolve() == folder / "configs" / "lr_0.1.py"
    assert "lr_0.1" in experiments.names()


@pytest.mark.parametrize("name", ["nowhere", "", "configs", "../nowhere"])
def test_nothing_is_found_if_there_is_no_such_file(name):
    assert experiments.find(name) is None
