"""docs/config.md lists every config field as configs/default.py has it."""

import importlib.util
from pathlib import Path

import pytest

from configs import default

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_config", ROOT / "docs" / "generate_config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator):
    message = "docs/config.md is stale: run python docs/generate_config.py"
    assert generator.PAGE.read_text() == generator.page(generator.SOURCE.read_text()), message


def test_the_page_has_a_row_for_every_field(generator):
    page = generator.PAGE.read_text()
    missing = [name for name in flat(default.get_config()) if f"\n| `config.{name}` |" not in page]
    assert not missing


def test_a_field_without_a_comment_is_an_error(generator):
    with pytest.raises(ValueError, match=r"config\.seed has no comment"):
        generator.page("def get_config():\n    config.seed = 0\n")


def flat(config, prefix=""):
    for name, value in config.items(preserve_field_references=True):
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name
