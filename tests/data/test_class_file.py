"""A class file of any content is parsed or refused in one short sentence, quickly."""

import time

import pytest

from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.errors import UserError

# First lines of files as other tools write them -> what is read: names, values, colours.
OF_OTHER_TOOLS = {
    "Kaggle's class_dict.csv of CamVid": (
        "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n",
        ("Animal", "Archway", "Void"),
        {0: 0, 1: 1, 2: 2, 255: 255},
        {(64, 128, 64): 0, (192, 0, 128): 1, (0, 0, 0): 2},
    ),
    "CamVid's label_colors.txt": (
        "64 128 64\tAnimal\n192 0 128\tArchway\n0 128 192\tBicyclist\n",
        ("Animal", "Archway", "Bicyclist"),
        {0: 0, 1: 1, 2: 2, 255: 255},
        {(64, 128, 64): 0, (192, 0, 128): 1, (0, 128, 192): 2},
    ),
    "labelme's labels.txt": (
        "__ignore__\n_background_\naeroplane\nbicycle\n",
        ("_background_", "aeroplane", "bicycle"),
        {-1: 255, 0: 0, 1: 1, 2: 2, 255: 255},
        {},
    ),
    "Roboflow's _classes.csv": (
        "Pixel Value, Class\n0, background\n1, car, parked\n".replace("car, parked", '"car, parked"'),
        ("background", "car, parked"),
        {0: 0, 1: 1},
        {},
    ),
    "CVAT's labelmap.txt": (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\naeroplane:128,0,0::\nperson:192,128,128:head,hand:\n",
        ("background", "aeroplane", "person"),
        {0: 0, 1: 1, 2: 2, 255: 255},
        {(0, 0, 0): 0, (128, 0, 0): 1, (192, 128, 128): 2},
    ),
    "a labelmap.txt without its comment": (
        "background:0,0,0::\nroad: wet:128,0,0::\nignore:224,224,192::\n",
        ("background", "road: wet"),
        {0: 0, 1: 1, 2: 255},
        {(0, 0, 0): 0, (128, 0, 0): 1, (224, 224, 192): 255},
    ),
    "a table with more columns": (
        "id;name;supercategory;red;green;blue\r\n7;road;flat;128;64;128\r\n11;2-wheeler;vehicle;0;0;230\r\n",
        ("road", "2-wheeler"),
        {7: 0, 11: 1},
        {(128, 64, 128): 0, (0, 0, 230): 1},
    ),
}

HUGE = "0x" + "f" * 5000  # Python refuses to write out its decimal digits
# Each name stands for nine of the one before.
LAUGHS = "\n".join(
    f"- &{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "a header without blue": ("name,r,g\na,1,2\nb,3,4", "line 1: the header 'name,r,g' lacks a colour"),
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
    "a list as a key": (
        "classes: [a, b]\nmap: {[255, 0, 0]: a}",
        'line 2: a list or mapping cannot stand before \':\': write a colour as "255 0 0" or "#ff0000"',
    ),
    "a mapping as a key": ("classes: [a, b]\nmap: {{1: 2}: a}", "line 2: a list or mapping cannot stand"),
    "a colour without quotes": (
        "classes: [a, b]\nmap: {#ff0000: a}",
        'put "*" and colours such as "#ff0000" into quotes',
    ),
    "a star without quotes": ("classes: [a, b]\nmap:\n  *: a", 'put "*" and colours such as "#ff0000" into quotes'),
    "a key given twice": ("classes: [a, b]\nclasses: [c, d]", "'classes' is given twice"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_refused_in_one_short_sentence(kind):
    assert_refused(*HOSTILE[kind], "classes.txt")


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_one_short_sentence(kind):
    assert_refused(*HOSTILE_YAML[kind], "classes.yaml")


@pytest.mark.parametrize("tool", OF_OTHER_TOOLS)
def test_class_files_of_other_tools_are_read(tool):
    text, *expected = OF_OTHER_TOOLS[tool]
    table = parse(text, "classes.txt")
    assert [table.names, table.values, table.colours] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,r,g,b\nroad,1,2,3\nsky,1,2", "line 3: 'sky,1,2' has 3 cell(s), but the header has 4"),
        ("name,r,g,b\nroad,1,2,3\nsky,1,2,3,4", "line 3: 'sky,1,2,3,4' has 5 cell(s)"),
        ("name,r,g,b\nroad,1,2,x\nsky,1,2,3", "line 2: '1 2 x' is neither a value nor a colour"),
        ("name,r,g,b\n\n,1,2,3", "line 3 gives a class without a name"),
        ("name,r,g,b\n" + "n" * 10**6, "has 0 cell(s)"),
        ("Pixel Value, Class\n0, road\nx, sky", "line 3: the value is 'x'"),
        ("Pixel Value, Class\n0, road\n0, sky", "value 0"),
        ("# label:color_rgb:parts:actions\nroad:1,2,3::\nsky:1,2,3", "line 3: 'sky:1,2,3' is not a class"),
        ("# label:color_rgb:parts:actions\nroad:1,2,300::\nsky:1,2,3::", "line 2: '1,2,300' is neither"),
        ("# label:color_rgb:parts:actions\n:1,2,3::\nsky:1,2,3::", "line 2 gives a class without a name"),
        ("road:1,2,3::\n" + ":" * 10**6, "line 2: "),
    ],
)
def test_faults_in_files_of_other_tools_are_named_by_their_line(text, reason):
    assert_refused(text, reason, "classes.txt")


@pytest.mark.parametrize("key", ["'*'", "others"])
def test_a_map_can_have_a_class_for_all_other_values_and_colours(key):
    table = parse(f"classes: [road, sky, other]\nmap: {{7: road, '#010203': sky, {key}: other}}", "c.yaml")
    assert (table.values, table.colours, table.rest) == ({7: 0, 255: 255}, {(1, 2, 3): 1}, 2)
    assert parse(f"classes: [road, sky]\nmap: {{7: road, 8: sky, {key}: ignore}}", "c.yaml").rest == 255
    assert parse("classes: [road, sky]\nmap: {7: road, 8: sky}", "c.yaml").rest is None
    assert_refused(f"classes: [road, sky]\nmap: {{7: road, {key}: other}}", "'other', which is not one of", "c.yaml")


def test_all_others_are_given_to_one_class():
    assert_refused(
        "classes: [a, b]\nmap: {'*': a, others: b}", "all other values and colours, to two classes", "c.yaml"
    )


@pytest.mark.parametrize("name", ["void", "Unlabelled", "unlabeled", "dont_care", "Unknown"])
def test_a_class_whose_name_marks_pixels_without_a_class_is_found(name):
    assert parse(f"road\n{name}\nsky", "c.txt").unlabelled() == [name]
    assert parse(f"0: road\n1: sky\n255: {name}", "c.txt").unlabelled() == []


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
