"""Data flows one way: what each part of the package may load."""

import subprocess
import sys

import pytest


def loaded(module):
    """Modules that importing `module` in a fresh interpreter brings in."""
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("part", ["losses", "models"])
def test_losses_and_models_need_nothing_else_of_the_project(part):
    modules = loaded(f"cpnet_jax.{part}")
    assert {name for name in modules if name.startswith("cpnet_jax.")} == {
        name for name in modules if name == f"cpnet_jax.{part}" or name.startswith(f"cpnet_jax.{part}.")
    }
    assert not modules & {"orbax.checkpoint", "grain", "tensorflow_datasets", "cv2", "ml_collections"}


def test_training_needs_neither_tensorflow_nor_torch():
    # None in sys.modules makes an import fail as if the package were not installed.
    code = (
        "import sys; sys.modules['torch'] = None; import cpnet_jax.training.loop; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
