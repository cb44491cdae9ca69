"""An exported file from a stranger is refused in one sentence before anything in it is run, or it is usable."""

import io
import json
import re
import zipfile

import exported_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_files import CROP, WEIGHTS, entries_of, packed, program, whole
from jax import export

from cpnet_jax import sharding
from cpnet_jax.errors import UserError
from cpnet_jax.inference.export import artifact, load_exported


@pytest.fixture(scope="module")
def entries():
    return entries_of(whole())


@pytest.fixture(autouse=True)
def _without_shape_checks(without_shape_checks):
    """The files hold values of other types than our annotations."""


def refusal(tmp_path, data):
    """The message about a file, which must be one short sentence that names it."""
    path = tmp_path / "m.cpnet"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_exported(path, sharding.make_mesh())
    message = str(error.value)
    assert message.startswith(str(path)) and "export" in message
    assert "\n" not in message and len(message) < 600
    return message


def test_a_whole_file_is_read_and_run(tmp_path):
    (tmp_path / "m.cpnet").write_bytes(whole())
    mesh = sharding.make_mesh()
    windows = np.random.default_rng(0).integers(0, 256, (mesh.size, *CROP, 3)).astype(np.uint8)
    found = load_exported(tmp_path / "m.cpnet", mesh).logits(sharding.to_devices(mesh, windows))
    expected = windows[:, ::8, ::8] @ WEIGHTS["params/classifier/kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "changed",
    [
        {"crop_size": [15, 24]},
        {"crop_size": [16, 24, 3]},
        {"crop_size": [8 * 10**6, 8 * 10**6]},
        {"crop_size": [-16, 24]},
        {"crop_size": [16.0, 24]},
        {"crop_size": "16x24"},
        {"any_size": 1},
        {"output_stride": 4},
        {"classes": []},
        {"classes": [1, 2, 3, 4]},
        {"classes": ["a", "b", "c", "\ud800"]},
        {"classes": ["a", "b", "c", "x" * 10**5]},
        {"classes": ["a"] * 256, "palette": [[0, 0, 0]] * 256},
        {"palette": [[0, 0, 0]] * 3},
        {"palette": [[0, 0, 300]] * 4},
        {"palette": [[0, 0]] * 4},
        {"palette": [[True, True, True]] * 4},
        {"ignore_label": 2},
        {"ignore_label": 256},
        {"ignore_label": "255"},
        {"mean": [1, 2]},
        {"mean": [float("nan"), 0, 0]},
        {"mean": [1e40, 0, 0]},
        {"std": [0, 1, 1]},
        {"std": [-1, 1, 1]},
        {"std": [float("inf"), 1, 1]},
        {"value_range": [0]},
        {"value_range": [5, 5]},
        {"value_range": [0, float("nan")]},
        {"dataset": ""},
        {"dataset": None},
        {"date": 3},
        {"origin": []},
        {"origin": {"experiment": "../x", "step": 7}},
        {"origin": {"experiment": "x", "step": -1}},
        {"origin": {"experiment": "x", "step": 7, "eval": 5}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"scales": []}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"scales": [1e9]}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"scales": {"a": 1}}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"overlap": "most"}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"flip": "yes"}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"batch_size": -1}}},
        {"origin": {"experiment": "x", "step": 7, "eval": {"canvas_mib": 0}}},
        {"versions": None},
        {"versions": {"jax": 7}},
        {"format_version": None},
        {"format_version": "1"},
        {"format_version": 10**400},
        {"note": "x" * 2**20},
    ],
    ids=lambda changed: json.dumps(changed)[:50],
)
def test_metadata_of_another_type_or_range_are_refused(tmp_path, changed):
    message = refusal(tmp_path, whole(**changed))
    assert "metadata.json" in message or "format version" in message or "not a number" in message


def test_the_entry_that_is_wrong_is_named_with_its_value_and_what_it_must_be(tmp_path):
    message = refusal(tmp_path, whole(std=[0, 1, 1]))
    assert "std is [0, 1, 1]: it must be a list of 3 entries, each a number from 1e-06 to 1e+06" in message
    assert "classes is missing or null" in refusal(tmp_path, whole(classes=None))


@pytest.mark.parametrize("text", ["", "[" * 10**5, '{"format": NaN}', '{"a": 1, "a": 2}', "\xff", "9" * 5000])
def test_metadata_that_are_not_json_are_refused(tmp_path, entries, text):
    changed = {**entries, "metadata.json": text.encode("latin-1")}
    assert "is damaged or not an exported network" in refusal(tmp_path, packed(list(changed.items())))


def test_metadata_may_hold_more_than_is_known(tmp_path):
    (tmp_path / "m.cpnet").write_bytes(whole(licence="CC0", value_range=None))
    assert load_exported(tmp_path / "m.cpnet", sharding.make_mesh()).value_range is None


def encrypted(data):
    """The archive with the flag of encryption on every entry."""
    changed = bytearray(data)
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(start), data):
            changed[match.start() + place] |= 1
    return bytes(changed)


def with_repeated(entries, name):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return packed([*entries.items(), (name, entries[name])])


ODD_ARCHIVES = {
    "encrypted": lambda entries: encrypted(packed(list(entries.items()))),
    "deflate": lambda entries: packed(list(entries.items()), zipfile.ZIP_DEFLATED),
    "bzip2": lambda entries: packed(list(entries.items()), zipfile.ZIP_BZIP2),
    "lzma": lambda entries: packed(list(entries.items()), zipfile.ZIP_LZMA),
    "bomb": lambda entries: packed([*entries.items(), ("weights/a.npy", bytes(2 * 10**7))], zipfile.ZIP_DEFLATED),
    "two metadata": lambda entries: with_repeated(entries, "metadata.json"),
    "two programs": lambda entries: with_repeated(entries, "model.stablehlo"),
    "two weights": lambda entries: with_repeated(entries, "weights/params/scale.npy"),
    "absolute name": lambda entries: packed([*entries.items(), ("/etc/passwd", b"")]),
    "name with dots": lambda entries: packed([*entries.items(), ("../../x", b"")]),
    "no program": lambda entries: packed([pair for pair in entries.items() if pair[0] != "model.stablehlo"]),
}


@pytest.mark.parametrize("kind", ODD_ARCHIVES)
def test_archives_that_this_program_does_not_write_are_refused(tmp_path, entries, kind):
    assert "is damaged or not an exported network" in refusal(tmp_path, ODD_ARCHIVES[kind](entries))


def npy(array, **header):
    """An array as numpy writes it, with other values in the header."""
    file = io.BytesIO()
    described = {**np.lib.format.header_data_from_array_1_0(array), **header}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue() + array.tobytes()


SCALE = WEIGHTS["params/scale"]
ODD_ARRAYS = {
    "huge shape": npy(SCALE, shape=(10**15,)),
    "huge empty shape": npy(SCALE, shape=(10**15, 0)),
    "negative shape": npy(SCALE, shape=(-3,)),
    "objects": npy(SCALE, descr="|O"),
    "no header": b"hello",
    "cut header": npy(SCALE)[:40],
    "Python": npy(SCALE).replace(b"(3,)", b"9**9"),
    "too long": npy(SCALE) + b"x",
    "another shape": npy(np.ones(4, np.float32)),
    "another dtype": npy(np.ones(3, np.float64)),
    "not finite": npy(np.array([1, np.inf, 1], np.float32)),
    "no number": npy(np.array([1, np.nan, 1], np.float32)),
}


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_weights_that_the_program_cannot_take_are_refused(tmp_path, entries, kind):
    changed = {**entries, "weights/params/scale.npy": ODD_ARRAYS[kind]}
    message = refusal(tmp_path, packed(list(changed.items())))
    assert "params/scale" in message
    assert ("non-finite" in message) == (kind in ("not finite", "no number"))


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"params/scale": SCALE}, 'needs the weight "params/classifier/kernel", which is missing'),
        ({**WEIGHTS, "params/more": SCALE}, 'does not take the weight "params/more"'),
    ],
)
def test_missing_and_superfluous_weights_are_named(tmp_path, weights, named):
    assert named in refusal(tmp_path, whole(program(), weights))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"classes": list("abc"), "palette": [[0, 0, 0]] * 3}, "its program returns logits of (b, 2, 3, 4)"),
        ({"any_size": True}, "its program does not take weights and windows and real positions"),
        ({"crop_size": [24, 16]}, "its program takes windows of (16, 24, 3), but crop_size is [24, 16]"),
    ],
)
def test_metadata_that_contradict_the_program_are_refused(tmp_path, changed, named):
    assert named in refusal(tmp_path, whole(**changed))


def returning(**results):
    return lambda weights, windows: exported_files.network(weights, windows) | results


ODD_PROGRAMS = {
    "another result": (lambda: program(returning(more=1.0)), "does not return logits and classes"),
    "no result": (lambda: program(lambda weights, windows: windows), "does not return logits and classes"),
    "integers": (
        lambda: program(lambda *given: jax.tree.map(lambda x: x.astype(jnp.int32), exported_files.network(*given))),
        "returns values of",
    ),
    "one argument": (
        lambda: bytes(export.export(jax.jit(jnp.sin), platforms=["cpu"])(jnp.zeros(3)).serialize()),
        "does not take weights and windows",
    ),
    "another platform": (
        lambda: bytes(
            export.export(jax.jit(exported_files.network), platforms=["tpu"])(WEIGHTS, exported_windows()).serialize()
        ),
        "its program is for tpu, and these devices are cpu",
    ),
    "one size of batch": (
        lambda: bytes(
            export.export(jax.jit(exported_files.network), platforms=["cpu"])(
                WEIGHTS, jax.ShapeDtypeStruct((2, *CROP, 3), jnp.uint8)
            ).serialize()
        ),
        "does not take a batch of images",
    ),
}


def of_sizes(text):
    """A program that takes images and real positions of these symbolic or fixed sizes: batch, rows, columns, rows."""
    batch, rows, columns, others = export.symbolic_shape(text)
    images = jax.ShapeDtypeStruct((batch, 8 * rows, 8 * columns, 3), jnp.uint8)
    real = jax.ShapeDtypeStruct((batch, others, columns), jnp.bool_)
    function = jax.jit(exported_files.network_of_any_size)
    return bytes(export.export(function, platforms=["cpu"])(WEIGHTS, images, real).serialize())


def test_a_file_for_any_size_is_accepted(tmp_path):
    (tmp_path / "m.cpnet").write_bytes(whole(exported_files.program_of_any_size(), any_size=True))
    mesh = sharding.make_mesh()
    model = load_exported(tmp_path / "m.cpnet", mesh)
    assert model.any_size
    images = sharding.to_devices(mesh, np.ones((mesh.size, 40, 8, 3), np.uint8))
    assert model.logits(images).shape == (mesh.size, 5, 1, 4)


@pytest.mark.parametrize("sizes", ["b, 2, w, 2", "b, h, 3, h", "b, h, h, h", "b, b, w, b", "b, h, w, g"])
def test_a_program_for_some_sizes_is_not_for_any_size(tmp_path, sizes):
    assert "but any_size is true" in refusal(tmp_path, whole(of_sizes(sizes), any_size=True))


def test_a_program_for_any_size_must_say_so(tmp_path):
    named = "does not take weights and windows"
    assert named in refusal(tmp_path, whole(exported_files.program_of_any_size()))
    odd = exported_files.program_of_any_size(
        lambda *given: exported_files.network_of_any_size(*given) | {"classes": given[1][..., 0] * 0, "logits": 1.0}
    )
    assert "its program returns logits of ()" in refusal(tmp_path, whole(odd, any_size=True))


def exported_windows():
    return jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *CROP, 3), jnp.uint8)


@pytest.mark.parametrize("kind", ODD_PROGRAMS)
def test_programs_with_other_arguments_results_or_devices_are_refused(tmp_path, kind):
    make, named = ODD_PROGRAMS[kind]
    assert named in refusal(tmp_path, whole(make()))


def calling(target):
    """A network that calls a function of the process by its registered name, without the checks of `export`."""

    def function(weights, windows):
        results = exported_files.network(weights, windows)
        shape = jax.ShapeDtypeStruct(results["logits"].shape, jnp.float32)
        return results | {"logits": jax.ffi.ffi_call(target, shape)(results["logits"])}

    checks = [export.DisabledSafetyCheck.custom_call(target)]
    exported = export.export(jax.jit(function), platforms=["cpu"], disabled_checks=checks)
    return bytes(exported(WEIGHTS, exported_windows()).serialize())


@pytest.mark.parametrize("target", ["xla_ffi_python_cpu_callback", "lapack_sgesdd_ffi", "any name"])
def test_a_program_that_would_call_a_function_of_the_process_is_refused_before_it_is_compiled(tmp_path, target):
    message = refusal(tmp_path, whole(calling(target)))
    assert "has an operation besides computations" in message and target in message


def test_a_program_that_cannot_be_compiled_or_run_gets_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "m.cpnet").write_bytes(whole())
    mesh = sharding.make_mesh()

    def fails(*_):
        raise RuntimeError("INVALID_ARGUMENT: no\nmore")

    monkeypatch.setattr(export.Exported, "call", fails)
    model = load_exported(tmp_path / "m.cpnet", mesh)
    with pytest.raises(UserError, match=r"m\.cpnet holds a program that cannot be run .*INVALID_ARGUMENT: no\)"):
        model.logits(sharding.to_devices(mesh, np.zeros((mesh.size, *CROP, 3), np.uint8)))


def test_metadata_are_refused_before_the_weights_are_read(tmp_path, monkeypatch):
    def not_yet(*_):
        raise AssertionError

    monkeypatch.setattr(artifact, "_array", not_yet)
    assert "crop_size" in refusal(tmp_path, whole(crop_size=[8 * 10**6, 8]))
