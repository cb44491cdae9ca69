"""Matrices of .mat files are read as scipy reads them; damaged files raise ValueError."""

from io import BytesIO

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from cpnet_jax.data.builders.mat_file import read_array

MATRIX = np.random.default_rng(0).integers(0, 60, (7, 5))
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def written(compressed: bool, **variables) -> bytes:
    file = BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed, long_field_names=True)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_matrix_of_any_type_is_read_exactly(dtype, compressed):
    matrix = MATRIX.astype(dtype)
    data = written(compressed, other="text", cell=np.array([1, "a"], object), LabelMap=matrix, tiny=matrix[:1, :2])
    assert np.array_equal(read_array(data, "LabelMap"), matrix)
    assert np.array_equal(read_array(data, "tiny"), matrix[:1, :2])


@pytest.mark.parametrize("compressed", [False, True])
def test_a_field_of_a_struct_is_read_beside_others_of_any_kind(compressed):
    boundaries = np.array([[scipy.sparse.csc_matrix(MATRIX)], [MATRIX]], object)
    content = {"Boundaries": boundaries, "Segmentation": MATRIX.astype(np.uint8), "inner": {"deep": MATRIX}}
    data = written(compressed, GTcls=content)
    assert np.array_equal(read_array(data, "GTcls", "Segmentation"), MATRIX)
    assert np.array_equal(read_array(data, "GTcls", "inner", "deep"), MATRIX)


def test_big_endian_files_are_read():
    """Made by swapping the bytes of a file of 4-byte numbers."""
    data = written(False, m=MATRIX.astype(np.int32))
    swapped = np.frombuffer(data[128:], "<u4").astype(">u4").tobytes()
    # The name "m" is a character, whose bytes have no order; neither has the array's class.
    place = swapped.index(b"\0\0\0m")
    swapped = swapped[:place] + b"m\0\0\0" + swapped[place + 4 :]
    assert np.array_equal(read_array(data[:126] + b"MI" + swapped, "m"), MATRIX)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("missing",), "no variable missing"),
        (("text",), "no numbers"),
        (("struct", "missing"), "no field missing"),
        (("LabelMap", "field"), "LabelMap is not a struct"),
    ],
)
def test_what_is_missing_is_named(path, named):
    data = written(False, text="abc", struct={"a": 1}, LabelMap=MATRIX)
    with pytest.raises(ValueError, match=named):
        read_array(data, *path)


def test_damaged_and_foreign_files_are_refused():
    data = written(True, LabelMap=MATRIX)
    for damaged in (b"", data[:100], data[:150], b"\x89HDF\r\n" + bytes(200), data[:140] + b"\xff" * 20 + data[160:]):
        with pytest.raises(ValueError):
            read_array(damaged, "LabelMap")
