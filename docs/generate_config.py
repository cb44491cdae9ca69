"""Writes docs/config.md, the reference of every config field, from the comments of configs/default.py.

    python docs/generate_config.py

A field's comment stands beside it or on the lines above it. A comment above a `ConfigDict()` introduces its section.
Reads the source only: needs no package, not even this one.
"""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "configs" / "default.py"
PAGE = ROOT / "docs" / "config.md"

HEADER = """# Config fields

Every field of [`configs/default.py`](../configs/default.py) with its default. Each is also a flag:

    python main.py --config=configs/ade20k.py --config.optimizer.base_lr=0.01 --config.data.crop_size="(512,512)"

Experiments in [`configs/`](../configs) override single fields. `None` means that a field is not set.
This page is generated: edit the comments in `configs/default.py`, then run `python docs/generate_config.py`."""


def page(source: str) -> str:
    """Returns the text of docs/config.md for the source of configs/default.py.

    Raises:
      ValueError: if a field has no comment.
    """
    beside, above = _comments(source)
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    sections = {"config": "config"}  # name of a local variable -> path of the section it holds
    lines = [HEADER, *_section("config", "")]
    for node in function.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        field = node.targets[0]
        path = f"{sections[field.value.id]}.{field.attr}"
        comment = beside.get(node.end_lineno) or above.get(node.lineno, "")
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith("ConfigDict"):
            sections[node.targets[1].id] = path
            lines += _section(path, comment)
            continue
        if not comment:
            raise ValueError(f"{path} has no comment in configs/default.py: write one beside or above it")
        lines.append(f"| `{path}` | `{_default(node.value, source)}` | {_escaped(comment)} |")
    return "\n".join(lines) + "\n"


def _section(path: str, comment: str) -> list[str]:
    introduction = [_escaped(comment), ""] if comment else []
    return ["", f"## {path}", "", *introduction, "| field | default | meaning |", "|---|---|---|"]


def _default(value: ast.expr, source: str) -> str:
    if isinstance(value, ast.Call):  # placeholder(float)
        return "None"
    return ast.get_source_segment(source, value)


def _escaped(text: str) -> str:
    """Returns the text as a cell of a Markdown table in which * and < mean themselves."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Returns comments by the line they stand beside, and by the line that follows them."""
    beside, above = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text, line = token.string.removeprefix("#").strip(), token.start[0]
            if token.line.strip().startswith("#"):
                above[line + 1] = f"{above.pop(line, '')} {text}".strip()
            else:
                beside[line] = text
    return beside, above


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
