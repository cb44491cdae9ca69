"""Imports go one way: a folder of the package imports only from the folders before it in this list, `FOLDERS`."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cpnet_jax"
FOLDERS = ["errors", "losses", "models", "sharding", "runtime", "data", "training", "config"]
FOLDERS += ["inference", "weights", "evaluation", "plan", "ablation", "demo", "modes"]
ALONE = {"losses", "models"}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(path):
    """The package's modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names if node.module in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def folder_of(module):
    return module.split(".")[1] if "." in module else None


IMPORTS = {module: set(imports(path)) - {module} for module, path in MODULES.items()}


def test_every_module_is_in_a_folder():
    assert {folder_of(module) for module in MODULES} == {None, *FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_from_folders_before_it(folder):
    allowed = {None, folder} | (set() if folder in ALONE else set(FOLDERS[: FOLDERS.index(folder)]))
    modules = [module for module in MODULES if folder_of(module) == folder]
    assert {
        (module, found) for module in modules for found in IMPORTS[module] if folder_of(found) not in allowed
    } == set()


def test_no_circle_of_imports_exists():
    TopologicalSorter(IMPORTS).prepare()


def users(package):
    """The modules that import a package from elsewhere."""
    found = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name and f"{name}.".startswith(f"{package}.") for name in names):
                found.add(module.removeprefix("cpnet_jax."))
    return found


def test_each_data_library_is_known_to_one_place():
    assert users("orbax") == {"training.checkpoint"}
    assert users("grain") == {"data.stream"}
    assert all(module.startswith("data.builders") for module in users("tensorflow_datasets"))


def test_image_files_are_opened_in_one_place():
    assert {module for module, path in MODULES.items() if "Image.open(" in path.read_text()} == {
        "cpnet_jax.data.image_files"
    }


def loaded(module):
    """Modules that importing `module` in a fresh interpreter brings in."""
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("part", sorted(ALONE))
def test_losses_and_models_load_no_library_of_data_or_configs(part):
    assert not loaded(f"cpnet_jax.{part}") & {
        "orbax.checkpoint",
        "grain",
        "tensorflow_datasets",
        "cv2",
        "ml_collections",
    }


def test_training_needs_neither_tensorflow_nor_torch():
    # None in sys.modules makes an import fail as if the package were not installed.
    code = (
        "import sys; sys.modules['torch'] = None; import cpnet_jax.modes.train; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
