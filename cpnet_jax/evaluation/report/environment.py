"""The Jinja environment of the report's templates, also for other pages that include them."""

from collections.abc import Iterable
from typing import Any

import jinja2
from markupsafe import Markup

from cpnet_jax.evaluation.report import rows
from cpnet_jax.runtime.standard_streams import printable


def environment() -> jinja2.Environment:
    """The templates of this folder. Values are escaped: they may be names from anyone's files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cpnet_jax.evaluation.report", "template"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        finalize=_shown_as_escapes,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = rows.percent
    environment.filters["number"] = lambda value: "" if value is None else value  # for sorting; empty values come last
    environment.filters["rgb"] = _rgb
    environment.filters["printable"] = printable
    environment.filters["isolated"] = isolated
    return environment


def isolated(name: str) -> Markup:
    """A name that does not change the order of what stands beside it if it is written from right to left."""
    isolate = "{}" if name.isascii() else "\N{FIRST STRONG ISOLATE}{}\N{POP DIRECTIONAL ISOLATE}"
    return Markup(isolate).format(printable(name))


def _shown_as_escapes(value: Any) -> Any:
    """Escapes what browsers obey instead of showing it, in names that stand alone in their element."""
    return printable(value) if type(value) is str else value


def _rgb(colour: Iterable[int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"
