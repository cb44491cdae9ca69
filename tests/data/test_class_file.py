"""A class file of any content is parsed or refused in one short sentence, quickly."""

import time

import pytest
from users_folder import COLOURS, NAMES, assert_one_sentence

from cpnet_jax.data.catalog.class_file import parse
from cpnet_jax.errors import UserError

BY_PLACE = {0: 0, 1: 1, 2: 2, 255: 255}
FOUR_IN_YAML = "{{name: road, value: 0}}, {{name: sky, value: 1}}, {{name: tree, value: 2}}, {{name: {}, value: 255}}"
CLASS_FILES = {
    "names": ("c.txt", "# mine\nroad\n\n sky \ntree", BY_PLACE),
    "names with Windows line ends": ("c.txt", "road\r\nsky\r\ntree\r\n", BY_PLACE),
    "values": ("c.txt", "7: road\n8 sky\n11=tree", {7: 0, 8: 1, 11: 2, 255: 255}),
    "a first line to ignore": ("c.txt", "ignore\nroad\nsky\ntree", {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}),
    "255 as a class": ("c.txt", "0: road\n1: sky\n255: tree", {0: 0, 1: 1, 255: 2}),
    "255 ignored in capitals": ("c.txt", "0: road\n1: sky\n2: tree\n255: Ignore", BY_PLACE),
    "255 as void": ("c.txt", "0: road\n1: sky\n2: tree\n255: VOID", BY_PLACE),
    "255 unlabelled": ("c.yaml", "classes: [" + FOUR_IN_YAML.format("Unlabelled") + "]", BY_PLACE),
    "ignored in any place": ("c.txt", "Ignored\nroad\nsky\ntree", {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}),
    "-1 to ignore": ("c.txt", "0: road\n1: sky\n2: tree\n-1: ignore", {**BY_PLACE, -1: 255}),
    "-1 to ignore in YAML": ("c.yaml", "classes: [road, sky, tree]\nignore: -1", {**BY_PLACE, -1: 255}),
    "-1 of 16 bits": ("c.txt", "0: road\n1: sky\n2: tree\n65535: unlabeled", {**BY_PLACE, 65535: 255}),
    "the first line of labelme": ("c.txt", "__ignore__\nroad\nsky\ntree", {**BY_PLACE, -1: 255}),
    "the first line of labelme in YAML": ("c.yaml", "[__ignore__, road, sky, tree]", {**BY_PLACE, -1: 255}),
    "quotes": ("c.txt", '"road"\n\'sky\'\n" tree "', BY_PLACE),
    "YAML that merges entries": (
        "c.yaml",
        "classes: [&first {name: road, value: 0}, {<<: *first, name: sky, value: 1}, {name: tree, value: 2}]",
        BY_PLACE,
    ),
    "a YAML list": ("c.yaml", "- road\n- sky\n- tree", BY_PLACE),
    "YAML with values and ignored ones": (
        "c.yml",
        "classes: [{name: road, value: 7}, {name: sky, value: 8}, {name: tree, value: 9}]\nignore: [0, 1]",
        {7: 0, 8: 1, 9: 2, 0: 255, 1: 255, 255: 255},
    ),
    "YAML that maps old to new labels": (
        "c.yaml",
        "classes: [road, sky, tree]\nmap: {0: ignore, 4: road, 5: 0, 6: sky, 7: tree, 9: 255}",
        {0: 255, 4: 0, 5: 0, 6: 1, 7: 2, 9: 255, 255: 255},
    ),
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_a_class_file_maps_raw_values_to_classes(name):
    where, text, values = CLASS_FILES[name]
    table = parse(text, where)
    assert (table.names, table.values, table.colours) == (NAMES, values, {})


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("c.txt", "road 128 64 128\nsky #4682b4\ntree,107,142,35\nignore 0 0 0"),
        ("c.txt", "128 64 128 road\n#4682b4\tsky\n107, 142, 35, tree\n0 0 0 ignore"),
        (
            "c.yaml",
            "classes: [{name: road, colour: [128, 64, 128]}, {name: sky, color: '#4682B4'}, "
            "{name: tree, colour: '107 142 35'}]\nignore: '#000000'",
        ),
    ],
)
def test_every_spelling_of_colours_is_read(where, text):
    table = parse(text, where)
    assert (table.names, table.palette) == (NAMES, COLOURS)
    assert table.colours == {**dict(zip(COLOURS, range(3), strict=True)), (0, 0, 0): 255}


def test_colours_can_be_mapped():
    classes = "classes: [{name: road, colour: '#010101'}, {name: sky, colour: '#020202'}]"
    table = parse(classes + "\nmap: {'#030303': sky, '4 4 4': ignore}", "c.yaml")
    assert table.colours == {(1, 1, 1): 0, (2, 2, 2): 1, (3, 3, 3): 1, (4, 4, 4): 255}


def test_names_can_have_several_words():
    assert parse("traffic light\nTür\n(other)", "c.txt").names == ("traffic light", "Tür", "(other)")


def test_names_that_start_with_a_digit_are_written_in_quotes():
    names = ("2-wheeler", "3D sign", "sky")
    assert parse("\"2-wheeler\"\n'3D sign'\nsky", "c.txt").names == names
    assert parse("7: \"2-wheeler\"\n8: '3D sign'\n9: sky", "c.txt").values == {7: 0, 8: 1, 9: 2, 255: 255}
    assert parse("\"2-wheeler\" 1 2 3\n'3D sign' #040506\nsky 7 8 9", "c.txt").palette[1] == (4, 5, 6)


@pytest.mark.parametrize("gap", [" ", "\t", ": ", ",", " = "])
@pytest.mark.parametrize("header", ["", "label{}index\n"])
def test_values_behind_names_are_refused_not_mapped_by_place(gap, header):
    lines = [f"road{gap}2", f"sky{gap}0", f"traffic light{gap}1"]
    text = header.format(gap) + "\n".join(lines)
    assert_refused(text, f"the value of {lines[0]!r} stands behind its name: write VALUE: NAME", "classes.txt")
    assert parse("2: road\n0: sky\n1: traffic light", "classes.txt").values == {2: 0, 0: 1, 1: 2, 255: 255}
    in_quotes = parse("\n".join(f"'{line}'" for line in lines), "classes.txt")
    assert in_quotes.names == tuple(lines) and in_quotes.values == BY_PLACE


@pytest.mark.parametrize(
    "names", [("level 1", "level 2", "level 3"), ("lane 2", "lane 1", "sky"), ("car 0", "van 1", "bus 2")]
)
def test_numbers_that_no_value_contradicts_belong_to_names(names):
    table = parse("\n".join(names), "classes.txt")
    assert (table.names, table.values) == (names, BY_PLACE)


@pytest.mark.parametrize("name", ["void", "unlabeled", "background", "Void"])
def test_what_may_be_a_class_is_one_unless_its_value_marks_pixels_without_a_class(name):
    assert parse(f"0: {name}\n1: road\n2: sky", "c.txt").names == (name, "road", "sky")
    assert parse(f"{name}\nroad\nsky", "c.txt").names == (name, "road", "sky")


def test_names_of_classes_are_the_same_in_every_unicode_form():
    assert parse("cafe\u0301\nroad", "c.txt").names == parse("caf\u00e9\nroad", "c.txt").names


def test_default_colours_differ_and_are_not_black():
    palette = parse("\n".join(f"class{index}" for index in range(255)), "c.txt").palette
    assert len({*palette, (0, 0, 0)}) == 256


BAD_CLASS_FILES = {
    "empty": ("c.txt", "\n# nothing\n", ["no class"]),
    "one class": ("c.txt", "crack", ["crack", "background"]),
    "a name twice": ("c.txt", "road\nsky\nroad", ["'road'", "more than once"]),
    "a name in two cases": ("c.txt", "road\nsky\nRoad", ["'road' and 'Road'", "case"]),
    "a name with a digit first": ("c.txt", "road\n2-wheeler", ["line 2", "'2-wheeler'", "quotes"]),
    "a value of more bits than masks have": ("c.txt", f"{2**64}: road\n1: sky", ["line 1", "32 bits"]),
    "a key twice": ("c.yaml", "classes: [road, sky]\nmap: {7: road, 7: sky}", ["7 is given twice"]),
    "a date that does not exist": ("c.yaml", "classes: [road, 2024-02-31]", ["not valid YAML"]),
    "YAML that is nested too deeply": ("c.yaml", "classes: " + "[" * 1500, ["not valid YAML"]),
    "a number for a name": ("c.txt", "road\n17\nsky", ["line 2", "'17'"]),
    "some values": ("c.txt", "0: road\nsky", ["value", "'sky'"]),
    "some colours": ("c.txt", "road 1 2 3\nsky", ["colour", "'sky'"]),
    "a value twice": ("c.txt", "3: road\n3: sky", ["value 3", "two classes"]),
    "a colour twice": ("c.txt", "road 1 2 3\nsky 1 2 3", ["(1, 2, 3)", "two classes"]),
    "a colour out of range": ("c.txt", "road 1 2 300\nsky 1 2 3", ["line 1", "255"]),
    "too many": ("c.txt", "\n".join(f"c{i}" for i in range(256)), ["256 classes"]),
    "not YAML": ("c.yaml", "classes: [road", ["not valid YAML"]),
    "YAML without classes": ("c.yaml", "names: [road, sky]", ["classes"]),
    "an empty YAML": ("c.yaml", "", ["classes"]),
    "a YAML name that is not text": ("c.yaml", "classes: [yes, no]", ["class 0", "quotes"]),
    "an unknown YAML field": ("c.yaml", "classes: [{name: a, id: 3}, {name: b, id: 4}]", ["'id'", "value"]),
    "a YAML value that is not a number": (
        "c.yaml",
        "classes: [{name: a, value: x}, {name: b, value: 4}]",
        ["class 0", "'x'"],
    ),
    "a map to no class": ("c.yaml", "classes: [a, b]\nmap: {3: c}", ["'c'"]),
    "a map to no place": ("c.yaml", "classes: [a, b]\nmap: {3: 2}", ["class 2"]),
    "a map that is a list": ("c.yaml", "classes: [a, b]\nmap: [3, 2]", ["'map'"]),
}


@pytest.mark.parametrize("name", BAD_CLASS_FILES)
def test_a_bad_class_file_is_refused_in_one_line(name):
    where, text, named = BAD_CLASS_FILES[name]
    with pytest.raises(UserError) as caught:
        parse(text, where)
    assert_one_sentence(caught.value, where, *named)


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


@pytest.mark.parametrize(
    ("header", "part"), [("name,id,r,g,b,class", "name"), ("value,name,id", "value"), ("name,r,g,b,red", "red")]
)
def test_two_columns_of_one_meaning_are_refused(header, part):
    rows = "\n".join(",".join([name] * (header.count(",") + 1)) for name in "12")
    assert_refused(
        f"{header}\n{rows}", f"line 1: the header {header!r} has several columns for {part} (", "classes.csv"
    )


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
    assert seconds(4000) < 20 * seconds(500)


@pytest.mark.parametrize(
    "line", ["7: traffic  light", "7  traffic  light", "traffic  light  1  2,3", "traffic  light  #010203"]
)
def test_gaps_in_lines_separate_as_single_spaces_do(line):
    assert (
        "traffic  light"
        in parse(f"{line}\n{line.replace('light', 'sign').replace('7', '8').replace('3', '4')}", "x.txt").names
    )
