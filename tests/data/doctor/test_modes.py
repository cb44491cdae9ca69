"""--mode=check_data and --mode=prepare on sources, records and mistakes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from camvid_source import COUNTS, Tree, check, config_for, encoded, found_in, label_of, plant_all
from forked_program import run_all

from cpnet_jax.data import builders, catalog
from cpnet_jax.errors import UserError
from cpnet_jax.modes.check_data import check_data
from cpnet_jax.modes.prepare import prepare


def test_prepared_records_are_examined_without_their_source(tmp_path, capsys):
    tree = Tree(tmp_path / "raw")
    raw = check(tree.root, tmp_path)
    prepare(config_for(tree.root, tmp_path / "data"))
    assert "train 6, val 3" in capsys.readouterr().out
    shutil.rmtree(tree.root)
    check_data(config_for("", tmp_path / "data"), tmp_path / "run")
    prepared = json.loads((tmp_path / "run/check_data/report.json").read_text())
    assert prepared["sound"] and prepared["classes"] == raw["classes"] and prepared["splits"] == raw["splits"]
    assert [row["value"] for row in prepared["raw_values"]] == [*range(11), 255]


def test_damaged_records_are_found(tmp_path, monkeypatch):
    tree = Tree(tmp_path / "raw")
    prepare(config_for(tree.root, tmp_path / "data"))
    intact = builders.records

    def damaged(builder, split):
        examples = [intact(builder, split)[index] for index in range(COUNTS[split])]
        return [{**examples[0], "label": encoded(label_of(1) + 3)}, *examples[1:]]

    monkeypatch.setattr(builders, "records", damaged)
    with pytest.raises(UserError, match="not sound"):
        check_data(config_for("", tmp_path / "data"), tmp_path / "run")
    report = json.loads((tmp_path / "run/check_data/report.json").read_text())
    assert set(found_in(report)["unknown_values"]) == {"train record 0 (label)", "val record 0 (label)"}


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(bytes(path.stat().st_size)), Path.unlink])
def test_an_unreadable_record_is_a_finding(tmp_path, damage):
    prepare(config_for(Tree(tmp_path / "raw").root, tmp_path / "data"))
    [shard] = (tmp_path / "data").rglob("*-val.array_record*")
    damage(shard)
    with pytest.raises(UserError, match="not sound"):
        check_data(config_for("", tmp_path / "data"), tmp_path / "run")
    found = found_in(json.loads((tmp_path / "run/check_data/report.json").read_text()))
    records = [f"val record {index}" for index in range(COUNTS["val"])]
    assert found["image_unreadable"].keys() == {f"{record} (image)" for record in records}
    assert found["label_unreadable"].keys() == {f"{record} (label)" for record in records}


def test_a_missing_split_names_the_field(tmp_path):
    config = config_for(Tree(tmp_path / "raw").root, tmp_path / "data")
    config.data.eval_split = "vale"
    with pytest.raises(UserError, match=r"config\.data\.eval_split is 'vale'"):
        check_data(config, tmp_path / "run")


def test_joined_splits_are_checked(tmp_path):
    """No class is missing if one of the joined splits has it."""
    tree = Tree(tmp_path / "raw", lambda label: np.where(label == 3, 4, label).astype(np.uint8))
    tree.add("val/road")
    config = config_for(tree.root, tmp_path / "data")
    config.data.train_split = config.data.eval_split = "train+val"
    check_data(config, tmp_path / "run")
    assert found_in(json.loads((tmp_path / "run/check_data/report.json").read_text())).keys() == {"split_size"}
    config.data.eval_split = "train+vale"
    with pytest.raises(UserError, match=r"config\.data\.eval_split is 'train\+vale'"):
        check_data(config, tmp_path / "run")


@pytest.mark.parametrize("mode", ["prepare", "check_data"])
def test_the_error_for_a_missing_source_says_how_to_get_it(tmp_path, mode):
    config = config_for("", tmp_path / "data")
    config.data.download = False
    with pytest.raises(UserError) as caught:
        prepare(config) if mode == "prepare" else check_data(config, tmp_path / "run")
    assert catalog.CAMVID.source_help in str(caught.value)
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


def test_the_program_exits_with_2_on_faults_and_prepares_sound_data(tmp_path):
    def command(mode, tree):
        fields = [f"--config.data.source={tree.root}", f"--config.data.dir={tmp_path}/data"]
        program = ["--config=configs/camvid.py", f"--mode={mode}", f"--workdir={tmp_path}/run"]
        return [*program, "--config.system.compilation_cache=", *fields]

    faulty = Tree(tmp_path / "faulty")
    plant_all(faulty)
    commands = [command("check_data", faulty), command("prepare", Tree(tmp_path / "raw"))]
    checked, prepared = run_all(commands, os.environ)
    assert checked.returncode == 2 and "train/cut.png" in checked.stdout
    assert "\nWARNING: " in checked.stdout and r"\n" not in checked.stdout, "each finding begins a line"
    [line] = [line for line in checked.stderr.splitlines() if line.startswith("error: ")]
    assert "13 fault(s)" in line and "Traceback" not in checked.stderr
    assert prepared.returncode == 0 and "train 6, val 3" in prepared.stdout
    assert not (tmp_path / "run/config.json").exists()
