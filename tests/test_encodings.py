"""Text files are UTF-8 whatever the locale: everything that opens one says so."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("cpnet_jax", "configs", "docs", "examples")
TEXT_MODES = ("r", "w", "a", "x", "r+", "w+", "a+")


def opens_text_in_the_locales_encoding(call):
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    match call.func:
        case ast.Attribute(ast.Name("files"), _):
            return False  # `runtime.files` always writes UTF-8
        case ast.Attribute(_, "read_text" | "write_text"):
            return True
        case ast.Attribute(_, "open") | ast.Name("open"):
            return any(isinstance(mode, ast.Constant) and mode.value in TEXT_MODES for mode in call.args)
    return False


def test_text_files_are_opened_with_an_encoding():
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        lines = [call.lineno for call in calls if opens_text_in_the_locales_encoding(call)]
        assert not lines, f"{path.relative_to(ROOT)}: {lines}"
