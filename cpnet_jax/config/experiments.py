"""Finds experiments by path or name, in the current folder or among those that come with the package."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

from ml_collections import ConfigDict

import cpnet_jax

_PACKAGE = Path(cpnet_jax.__file__).resolve().parent
# An installed wheel holds the folder `configs` of the repository as cpnet_jax/_configs: see setup.py.
SHIPPED = _PACKAGE / "_configs" if (_PACKAGE / "_configs").is_dir() else _PACKAGE.parent / "configs"
LOCAL = Path("configs")


def find(name: str) -> Path | None:
    """The file of an experiment; None if there is no such file.

    Takes the first that exists of: the path `name`, ./configs/NAME.py, the same path or name among the experiments that
    come with the package.
    """
    below = Path(name if name.endswith(".py") else f"{name}.py")
    if below.parts[:1] == LOCAL.parts:
        below = below.relative_to(LOCAL)
    return next((path for path in (Path(name).expanduser(), LOCAL / below, SHIPPED / below) if path.is_file()), None)


def names() -> list[str]:
    """The names of all experiments that `find` knows without a path."""
    return sorted({path.stem for folder in (LOCAL, SHIPPED) for path in folder.glob("*.py")} - {"default"})


def default() -> ConfigDict:
    """The config of configs/default.py."""
    make_importable()
    return importlib.import_module("configs.default").get_config()


def make_importable() -> None:
    """Makes `from configs import default` work in any experiment, wherever the program was started and installed.

    Finds modules in ./configs first, then among those that come with the package; never in another installed package
    that is called `configs`.
    """
    if "configs" not in sys.modules:
        spec = ModuleSpec("configs", None, is_package=True)
        spec.submodule_search_locations = [str(LOCAL.absolute()), str(SHIPPED)]
        sys.modules["configs"] = module_from_spec(spec)
