"""Flags of fields that hold several values: checks their text, and shows a text that works."""

import ast
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from cpnet_jax.errors import UserError, quoted

# Longer texts are not searched for the numbers that may be meant.
LONGEST_NUMBERS = 60


class Form(NamedTuple):
    """What a field holds.

    Attributes:
      says: for the message.
      fits: whether an element is one of the field.
      example: a value.
      length: number of elements; None: any.
      works: whether a value made of the numbers in a text is one that the field accepts.
    """

    says: str
    fits: Callable[[Any], bool]
    example: tuple[Any, ...]
    length: int | None = None
    works: Callable[[tuple[Any, ...]], bool] = lambda _: False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _are_sides(value: tuple[Any, ...], multiple_of: int) -> bool:
    return all(isinstance(side, int) and side > 0 and side % multiple_of == 0 for side in value)


# 8 is the output stride, `models.cpnet.OUTPUT_STRIDE`; importing it would take a second.
_CROP, _PRIOR = partial(_are_sides, multiple_of=8), partial(_are_sides, multiple_of=1)
FORMS = {
    "data.crop_size": Form("two numbers, height and width", _is_number, (384, 384), 2, _CROP),
    "data.scales": Form("numbers", _is_number, (0.5, 1.0, 2.0)),
    "data.mean": Form("three numbers, R, G and B", _is_number, (123.675, 116.28, 103.53), 3),
    "data.std": Form("three numbers, R, G and B", _is_number, (58.395, 57.12, 57.375), 3),
    "data.folder.value_range": Form("two numbers, the lower one first", _is_number, (0, 4095), 2),
    "model.multi_grid": Form("numbers", _is_number, (1, 2, 4)),
    "model.pool_sizes": Form("numbers", _is_number, (1, 2, 3, 6)),
    "model.aspp_dilations": Form("numbers", _is_number, (12, 24, 36)),
    "init.skip": Form("patterns", _is_text, ("head/classifier/.*",)),
    "init.prior_size": Form("two numbers, height and width", _is_number, (60, 60), 2, _PRIOR),
    "finetune.freeze": Form("patterns", _is_text, ("backbone/.*",)),
    "finetune.lr_multipliers": Form("pairs of a pattern and a factor", _is_pair, (("backbone/.*", 0.1),)),
    "finetune.norms_in_eval_mode": Form("patterns", _is_text, ("backbone/.*",)),
    "loss.class_weights": Form("numbers", _is_number, (1.0, 2.5)),
    "eval.class_names": Form("pairs of two class names", _is_pair, (("auto", "car"),)),
    "eval.scales": Form("numbers", _is_number, (0.5, 1.0, 1.5)),
}


def check(field: str, text: str) -> None:
    """Raises UserError, with a flag that works, if the text is not what the field holds; other fields are ignored.

    As for ml_collections, brackets may be left out, and a single element needs no comma. What the values must be
    besides is for `config.check`.
    """
    form = FORMS.get(field)
    if form is None:
        return
    value = _value(text)
    elements = tuple(value) if isinstance(value, tuple | list) else (value,)
    has_length = form.length is None or len(elements) in (0, form.length)
    if value is None or not has_length or not all(map(form.fits, elements)):
        raise UserError(
            f'config.{field} is {quoted(text)}: give {form.says}, as --config.{field}="{_meant(text, form)}"'
        )


def _value(text: str) -> Any:
    """The value of a text as ml_collections reads it; None if it refuses the text."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text
    except SyntaxError:
        return None if "," in text or " " in text else text
    except (MemoryError, RecursionError):  # thousands of brackets
        return None


def _meant(text: str, form: Form) -> tuple[Any, ...]:
    """The value that is probably meant: made of the numbers in the text, or of the one pair; otherwise the example."""
    if form.length and len(text) <= LONGEST_NUMBERS:
        numbers = [float(n) if "." in n else int(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]
        completed = tuple(numbers * form.length)[: form.length]
        if len(numbers) in (1, form.length) and form.works(completed):
            return completed
    value = _value(text)
    return (tuple(value),) if form.fits is _is_pair and _is_pair(value) else form.example
