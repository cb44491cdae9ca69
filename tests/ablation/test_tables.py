"""Every row of every table in configs/ablations/ is an experiment that can be built."""

import importlib
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from cpnet_jax.ablation import runs, table
from cpnet_jax.config import build, command_line
from cpnet_jax.config.check import check_config
from cpnet_jax.config.same_run import as_dict
from cpnet_jax.errors import UserError
from cpnet_jax.training.step import train_step

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "ablations"
TABLES = {path.stem: table.load(path.stem, FOLDER) for path in sorted(FOLDER.glob("[!_]*.py"))}
ROWS = [(name, row) for name, one in TABLES.items() for row in one.rows]


def config_of(name, row):
    """The config of a row, as benchmarks/ablation.py loads it."""
    one = TABLES[name]
    chosen = table.Table(name, one.config, {row: one.rows[row]}, {})
    [run] = runs.make_runs(chosen, str(ROOT / one.config), [0], [], Path("out"))
    return runs.load_config(run)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_row_passes_the_checks_and_equals_its_config_file(name, row):
    config = config_of(name, row)
    ordinary = importlib.import_module(f"configs.ablations.{name}").get_config(row)
    check_config(ordinary)
    assert build.make_model(ordinary) and build.make_loss(ordinary) and build.make_optimizer(ordinary)
    assert ordinary.name == f"{config.name}_{row}"
    ordinary.name = config.name
    assert as_dict(ordinary) == as_dict(config)


def test_the_rows_of_a_table_all_differ():
    for name, one in TABLES.items():
        configs = [as_dict(config_of(name, row)) for row in one.rows]
        assert all(configs.count(config) == 1 for config in configs), name


SIZES = ("model.aggregation_kernel", "model.aspp_dilations")


def networks():
    """One row of each network; its other rows differ in the loss or in a size alone."""
    found = {}
    for name, row in ROWS:
        fields = {field: value for field, value in TABLES[name].rows[row].items() if field.startswith("model.")}
        found[frozenset(item for item in fields.items() if item[0] not in SIZES)] = (name, row)
    return list(found.values())


@pytest.mark.parametrize(("name", "row"), networks())
def test_a_row_traces_one_training_step(small_backbone, name, row):
    """With a small backbone and crop, which no row sets."""
    config = config_of(name, row)
    config.model.depth, config.data.crop_size, config.batch_size = 18, (64, 64), 2
    model, tx, loss = build.make_model(config), build.make_optimizer(config), build.make_loss(config)
    state = jax.eval_shape(build.make_create_state(config))
    batch = {
        "image": jax.ShapeDtypeStruct((2, 64, 64, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((2, 64, 64), np.uint8),
    }
    step = lambda state, batch: train_step(  # noqa: E731
        state, batch, model=model, loss=loss, tx=tx, normalize=lambda images: images.astype(np.float32)
    )
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert ("affinity_unary" in metrics) == config.model.context_prior
    assert ("aux" in metrics) == bool(config.model.aux_channels)


def test_published_figures_belong_to_rows():
    for one in TABLES.values():
        assert set(one.published) <= set(one.rows)
    assert TABLES["paper"].published == {
        "fcn": 34.38,
        "aux": 36.24,
        "aspp": 40.39,
        "psp": 41.49,
        "intra_bce": 42.34,
        "inter_bce": 41.88,
        "intra": 42.74,
        "inter": 42.43,
        "full": 43.92,
    }


def test_the_docstring_of_a_table_gives_its_command():
    for name in TABLES:
        said = runpy.run_path(str(FOLDER / f"{name}.py"))["__doc__"]
        assert f"benchmarks/ablation.py --table={name}" in said
        assert f"main.py --config=configs/ablations/{name}.py:psp" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config=configs/ablations/scenes.py:pspp", "the row 'pspp', which does not exist"),
        ("--config=configs/ablations/scenes.py", r"append a colon and one of its rows, as in :none \(none, aux, psp,"),
        ("--config=configs/ablations/scenes.py:", r"append a colon and one of its rows, as in :none \(none, aux, psp,"),
        ("--config=configs/quickstart.py:psp", "takes no argument"),
        ("--config=configs/nowhere.py:psp", "configs/nowhere.py does not exist"),
    ],
)
def test_an_unknown_row_is_reported_in_one_line(monkeypatch, argument, said):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=said):
        command_line.parse(["main.py", argument])


def test_an_unknown_table_is_reported_in_one_line():
    with pytest.raises(UserError, match=r"--table is nothing: use one of camvid, paper, scenes, scenes_places, or add"):
        table.load("nothing", FOLDER)


def test_a_mistake_in_a_tables_file_is_reported_in_one_line(tmp_path):
    good = 'CONFIG = "configs/quickstart.py"\nROWS = {"a_row-1.5": {}}\nPUBLISHED = {}\n'
    files = {
        "good": (good, None),
        "syntax": ("CONFIG =", "cannot be loaded: SyntaxError"),
        "module": ("import nothing_like_it", "cannot be loaded: ModuleNotFoundError"),
        "config": (good.replace("CONFIG", "CONFIGS"), "must define CONFIG"),
        "published": (good.replace("{}\n", "3\n"), "must define PUBLISHED"),
        "list": (good.replace('{"a_row-1.5": {}}', "[]"), "must define ROWS"),
        "empty": (good.replace('{"a_row-1.5": {}}', "{}"), "is empty: add at least one row"),
        "slash": (good.replace("a_row-1.5", "a/b"), "has 'a/b': a row's name may have letters"),
        "dots": (good.replace("a_row-1.5", ".."), "has '..': a row's name may have letters"),
        "comma": (good.replace("a_row-1.5", "a,b"), "has 'a,b': a row's name may have letters"),
        "fields": (good.replace(": {}", ": None"), "row a_row-1.5 in .* is None: it must be a dict of fields"),
    }
    for name, (text, said) in files.items():
        (tmp_path / f"{name}.py").write_text(text)
        if said is None:
            assert list(table.load(name, tmp_path).rows) == ["a_row-1.5"]
            continue
        with pytest.raises(UserError, match=said):
            table.load(name, tmp_path)


def test_a_string_in_a_row_keeps_its_spaces(monkeypatch):
    monkeypatch.chdir(ROOT)
    one = table.Table("one", "configs/quickstart.py", {"a": {"data.source": "my data", "data.scales": (0.5, 1.0)}}, {})
    [run] = runs.make_runs(one, one.config, [0], [], Path("out"))
    config = runs.load_config(run)
    assert config.data.source == "my data" and tuple(config.data.scales) == (0.5, 1.0)


def test_parameters_are_counted_from_shapes():
    config = config_of("scenes", "none")
    fcn = runs.count_parameters(config, classes=12)
    assert runs.count_parameters(config, classes=13) == fcn + 128 + 1
    config.model.aux_channels = 8
    # A 3x3 convolution of 256 channels with its BatchNorm, and the classifier.
    assert runs.count_parameters(config, classes=12) == fcn + 9 * 256 * 8 + 2 * 8 + 8 * 12 + 12
