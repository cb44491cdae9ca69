"""A class file of any content is parsed or refused in one short sentence, quickly."""

import time

import pytest

from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.errors import UserError

HUGE = "0x" + "f" * 5000  # Python refuses to write out its decimal digits
# Each name stands for nine of the one before.
LAUGHS = "\n".join(
    f"- &{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "a long gap in a line": ("a\nb" + " " * 20_000 + "c", "characters"),
    "a long gap before a comment": ("a\n1 2" + " " * 20_000 + "#", "is not a class"),
    "a long gap in a colour": ("a\n1 " + " " * 20_000 + "2 3", "is not a class"),
    "many gaps": ("a\n1 2" + " 7" * 20_000 + "#", "is not a class"),
    "thousands of digits": ("a\n" + "7" * 5000 + ": b", "at most 32 bits"),
    "a name of a megabyte": ("a\n" + "n" * 10**6, "of 1000000 characters"),
    "a faulty line of a megabyte": ("a\n7" + "n" * 10**6, "is not a class"),
    "an escape sequence": ("a\nb\x1b[2J", r"contains the control character '\x1b'"),
    "a control character of eight bits": ("a\nb\x9b2J", r"contains the control character '\x9b'"),
}
HOSTILE_YAML = {
    "thousands of digits": ("classes: [a, {name: b, value: " + "7" * 5000 + "}]", "thousands of digits"),
    "a huge value": (f"classes: [a, {{name: b, value: {HUGE}}}]", "value is a number of 20000 bits"),
    "a huge name": (f"classes: [a, {HUGE}]", "name is a number of 20000 bits"),
    "a huge ignored value": (f"classes: [a, b]\nignore: [{HUGE}]", "a number of 20000 bits is neither"),
    "a name of a megabyte": ("classes: [a, {name: [" + "n" * 10**6 + "]}]", "does not read as text"),
    "a target of a megabyte": ("classes: [a, b]\nmap: {1: " + "n" * 10**6 + "}", "not one of its classes"),
    "deep brackets": ("[" * 100_000, "too many levels"),
    "a deep name": ("classes: [a, " + "[" * 100 + "]" * 100 + "]", "does not read as text"),
    "repeated names": (f"classes:\n- &a [x, x]\n{LAUGHS}", "aliases stand for more than"),
    "an alias within itself": ("classes: &a [b, *a]", "does not read as text"),
    "repeated merges": (
        "classes: [a, b]\nx: &a {x: 1}\n"
        + "\n".join(
            f"{name}: &{name} {{'<<': [{', '.join(['*' + before] * 9)}]}}"
            for before, name in zip("abcdef", "bcdefg", strict=True)
        ),
        "aliases stand for more than",
    ),
    "a line break in a name": ('classes: [a, "b\\nerror: c"]', r"contains the control character '\n'"),
    "a key given twice": ("classes: [a, b]\nclasses: [c, d]", "'classes' is given twice"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_refused_in_one_short_sentence(kind):
    assert_refused(*HOSTILE[kind], "classes.txt")


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_one_short_sentence(kind):
    assert_refused(*HOSTILE_YAML[kind], "classes.yaml")


def assert_refused(text, reason, where):
    start = time.process_time()
    with pytest.raises(UserError) as refused:
        parse(text, where)
    # Most take milliseconds; a minute was usual.
    assert time.process_time() - start < 5
    message = str(refused.value)
    assert message.startswith(where) and reason in message
    assert len(message) < 300 and message.isprintable()


def test_many_keys_are_compared_in_linear_time():
    def seconds(keys):
        text = "classes: [a, b]\nmap:\n" + "".join(f"  {key}: a\n" for key in range(keys))
        start = time.process_time()
        parse(text, "classes.yaml")
        return time.process_time() - start

    seconds(10)
    assert seconds(8000) < 20 * seconds(1000)


@pytest.mark.parametrize(
    "line", ["7: traffic  light", "7  traffic  light", "traffic  light  1  2,3", "traffic  light  #010203"]
)
def test_gaps_in_lines_separate_as_single_spaces_do(line):
    assert (
        "traffic  light"
        in parse(f"{line}\n{line.replace('light', 'sign').replace('7', '8').replace('3', '4')}", "x.txt").names
    )
