"""A damaged, foreign or newer file is refused in one sentence."""

import dataclasses
import json
import zipfile

import exported_files
import jax
import numpy as np
import pytest
from exported_networks import one_sentence, read_program, rewritten
from jax import export
from PIL import Image

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import artifact, load_exported


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "whole.cpnet"
    path.write_bytes(exported_files.whole())
    return path


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(whole_file, tmp_path, kept):
    path, whole = tmp_path / "cut.cpnet", whole_file.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "cut.cpnet is damaged" in one_sentence(error)


@pytest.mark.parametrize("entry", ["metadata.json", "model.stablehlo", "weights/params/classifier/kernel.npy"])
def test_a_flipped_bit_is_found(whole_file, tmp_path, entry):
    whole = bytearray(whole_file.read_bytes())
    with zipfile.ZipFile(whole_file) as archive:
        info, content = archive.getinfo(entry), archive.read(entry)
    start = whole.index(content, info.header_offset)
    whole[start + len(content) - 2] ^= 1
    path = tmp_path / "flipped.cpnet"
    path.write_bytes(whole)
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "flipped.cpnet is damaged" in one_sentence(error)


def make_foreign(path, kind):
    if kind == "a text":
        path.write_text("hello")
    elif kind == "a picture":
        Image.new("RGB", (4, 4)).save(path, "PNG")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "another archive":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif kind == "another archive with metadata":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps(["somebody", "else's"]))


KINDS = ["a text", "a picture", "a folder", "another archive", "another archive with metadata", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused(tmp_path, kind):
    make_foreign(tmp_path / "other.cpnet", kind)
    with pytest.raises(UserError) as error:
        load_exported(tmp_path / "other.cpnet", sharding.make_mesh())
    assert "other.cpnet " in one_sentence(error)


def test_a_newer_format_is_refused_and_named(whole_file, tmp_path):
    path = rewritten(whole_file, tmp_path / "newer.cpnet", format_version=artifact.FORMAT_VERSION + 1)
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    assert "format version 4 and this program knows up to 3" in one_sentence(error)


def newer_calling_convention(path):
    """The program as written by a JAX with a newer calling convention."""
    network, _ = read_program(path)
    newest = export.maximum_supported_calling_convention_version
    return bytes(dataclasses.replace(network, calling_convention_version=newest + 1).serialize())


@pytest.mark.parametrize("program", ["garbage", "newer"])
def test_a_program_that_this_jax_cannot_read_is_refused_with_both_versions(whole_file, tmp_path, program):
    content = b"garbage" if program == "garbage" else newer_calling_convention(whole_file)
    path = rewritten(whole_file, tmp_path / "m.cpnet", program=content, versions={"jax": "99.1.0"})
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    message = one_sentence(error)
    assert "99.1.0" in message and jax.__version__ in message


@pytest.mark.parametrize("changed", [{"classes": None}, {"mean": 3}, {"palette": [[0, 0, 0]]}, {"origin": None}])
def test_invalid_metadata_are_rejected(whole_file, tmp_path, changed):
    path = rewritten(whole_file, tmp_path / "m.cpnet", **changed)
    with pytest.raises(UserError, match=r"metadata\.json"):
        load_exported(path, sharding.make_mesh())
