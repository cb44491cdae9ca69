"""Archives of every kind are read as the folder they were made from, and hostile or damaged ones are refused."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from reading_threads import read_by_threads

from cpnet_jax.data.builders.sources import Source
from cpnet_jax.errors import UserError

FILES = {"a/1.png": b"one", "a/2.png": b"two" * 999, "b/1.png": b"", "notes.txt": b"four"}
MODES = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "TAR.XZ": "w:xz"}


def write(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes] = FILES, *, mode: str = "w", inside: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            add(tar, inside + name, data)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def contents(source: Source) -> dict[str, bytes]:
    return {name: source.read(name) for name in source.names}


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "./"])
@pytest.mark.parametrize("ending", MODES)
def test_a_tar_archive_reads_as_its_folder(ending, inside, tmp_path):
    path = pack(tmp_path / f"own.{ending}", mode=MODES[ending], inside=inside)
    assert contents(Source(path)) == FILES
    assert contents(Source(path.rename(tmp_path / "own"))) == FILES, "the content decides, not the ending"


def test_tar_archives_in_a_folder_read_as_if_unpacked(tmp_path):
    write(tmp_path, {"notes.txt": b"unpacked"})
    pack(tmp_path / "1.tar", {"a/1.png": b"first", "notes.txt": b"packed"})
    pack(tmp_path / "2.tgz", {"a/1.png": b"second", "a/2.png": b"second"}, mode="w:gz")
    assert contents(Source(tmp_path)) == {"a/1.png": b"first", "a/2.png": b"second", "notes.txt": b"unpacked"}


def test_a_compressed_archive_kept_beside_its_unpacked_files_is_not_decompressed(tmp_path, capsys):
    write(tmp_path)
    pack(tmp_path / "own.tar.gz", mode="w:gz")
    assert contents(Source(tmp_path)) == FILES and not capsys.readouterr().out


def test_a_compressed_archive_is_decompressed_once_in_a_process_and_again_if_it_changes(tmp_path, capsys):
    path = pack(tmp_path / "own.tgz", mode="w:gz")
    assert contents(Source(path)) == contents(Source(path)) == FILES
    assert capsys.readouterr().out.count("Note: ") == 1
    pack(path, {"new": b"new"}, mode="w:gz")
    assert contents(Source(path)) == {"new": b"new"}


def test_threads_can_read_a_tar_archive_at_once(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{i:03d}": rng.integers(0, 4, int(rng.integers(1, 50_000))).astype(np.uint8).tobytes() for i in range(99)}
    source = Source(pack(tmp_path / "own.tar.gz", files, mode="w:gz"))
    read_by_threads(source, files)


def test_backslashes_in_zip_archives_separate_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.writestr("a\\", b"")
        for name, data in FILES.items():
            archive.writestr(name.replace("/", "\\"), data)
    assert contents(Source(tmp_path / "windows.zip")) == FILES


def test_links_within_a_tar_archive_are_followed(tmp_path):
    with tarfile.open(tmp_path / "own.tar", "w") as tar:
        add(tar, "a/1.png", b"one")
        add(tar, "a/hard.png", type=tarfile.LNKTYPE, linkname="a/1.png")
        add(tar, "b/soft.png", type=tarfile.SYMTYPE, linkname="../a/1.png")
    assert contents(Source(tmp_path / "own.tar")) == dict.fromkeys(["a/1.png", "a/hard.png", "b/soft.png"], b"one")


@pytest.mark.parametrize("folder", ["@eaDir/1.png", "#recycle", "$RECYCLE.BIN"])
def test_what_file_servers_and_windows_add_is_left_out(folder, tmp_path):
    write(tmp_path / "own", {**FILES, f"a/{folder}/SYNOPHOTO_THUMB_M.jpg": b"thumbnail"})
    assert contents(Source(tmp_path / "own")) == FILES


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_outside_an_archive_is_read_or_written(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (tmp_path / "box").mkdir()
    with tarfile.open(tmp_path / "box/hostile.tar", "w") as tar:
        add(tar, "a/good.png", b"good")
        add(tar, "/abs/x.png", b"evil")
        add(tar, "../up.png", b"evil")
        add(tar, "a/../../up2.png", b"evil")
        add(tar, "a/link.png", type=tarfile.SYMTYPE, linkname=str(secret))
        add(tar, "a/link2.png", type=tarfile.SYMTYPE, linkname="../../secret.png")
        add(tar, "a/hard.png", type=tarfile.LNKTYPE, linkname=str(secret))
        for name, kind in (("fifo", tarfile.FIFOTYPE), ("char", tarfile.CHRTYPE), ("block", tarfile.BLKTYPE)):
            add(tar, f"a/{name}.png", type=kind)
    with zipfile.ZipFile(tmp_path / "box/hostile.zip", "w") as archive:
        for name in ("/abs/y.png", "../up.png", "..\\up.png", "C:\\abs\\z.png"):
            archive.writestr(name, b"evil")
    source = Source(tmp_path / "box")
    assert source.names == ["C:/abs/z.png", "a/good.png", "abs/x.png", "abs/y.png"]
    assert b"secret" not in contents(source).values()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["box", "hostile.tar", "hostile.zip", "secret.png"]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_an_archive_cut_off_anywhere_is_refused_in_one_line(ending, tmp_path):
    path = tmp_path / f"cut.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
    else:
        pack(path, mode=MODES.get(ending, "w:xz"))
    whole = path.read_bytes()
    # A tar archive ends in blocks of zeros, of which the first one is enough.
    end = len(whole.rstrip(b"\0")) if ending == "tar" else len(whole)
    for length in {0, 1, 600, end - 1, *np.linspace(2, end - 1, 20).astype(int)} & {*range(end)}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            Source(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), length


@pytest.mark.parametrize("ending", ["tar", "tgz", "zip"])
def test_damaged_bytes_raise_nothing_but_a_user_error(ending, tmp_path):
    path = tmp_path / f"damaged.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
    else:
        pack(path, mode=MODES[ending])
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, min(len(whole), 4000), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            source = Source(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        for name in source.names:
            try:
                source.read(name)
            except UserError as error:
                assert source.where(name) in str(error)


def test_a_damaged_header_in_the_middle_does_not_hide_the_files_behind_it(tmp_path):
    path = pack(tmp_path / "own.tar")
    data = bytearray(path.read_bytes())
    data[data.index(b"b/1.png") + 150] ^= 1  # its checksum
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"own\.tar.* not a complete tar archive"):
        Source(path)


def test_a_split_archive_says_how_to_join_its_parts(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("a", b"a")
    data = bytearray((tmp_path / "own.zip").read_bytes())
    end = data.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + (0).to_bytes(4, "little") + end.to_bytes(8, "little") + (3).to_bytes(4, "little")
    (tmp_path / "own.zip").write_bytes(data[:end] + locator + data[end:])
    with pytest.raises(UserError, match=r"own\.zip.*split archive: join its parts with `zip -s 0 own\.zip"):
        Source(tmp_path)


def test_other_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "own.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(1000))
    with pytest.raises(UserError, match=r"own\.7z.* neither a zip nor a tar archive: unpack it"):
        Source(tmp_path / "own.7z")


def test_a_full_disk_names_the_folder_and_how_to_use_another(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR"):
        Source(pack(tmp_path / "own.tar.xz", mode="w:xz"))


def test_a_link_that_leads_nowhere_is_not_left_out_silently(tmp_path):
    write(tmp_path)
    (tmp_path / "a/3.png").symlink_to("../.git/annex/objects/3.png")
    source = Source(tmp_path)
    assert "a/3.png" in source.names
    with pytest.raises(UserError, match=r"a/3\.png is a link to \.\./\.git/annex/objects/3\.png, which cannot be read"):
        source.read("a/3.png")


def test_a_source_whose_path_cannot_be_printed_is_refused_in_print(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xd5\xd5"))
    folder.mkdir()
    with pytest.raises(UserError, match=r"\\xd5\\xd5'.*rename") as caught:
        Source(folder)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("ending", [*MODES, "zip"])
@pytest.mark.parametrize("damage", ["cut off", "wrong bytes", "another file"])
def test_damage_is_told_without_the_words_of_libraries(tmp_path, ending, damage):
    path = tmp_path / f"own.{ending}"
    files = {"images/a.png": np.random.default_rng(0).bytes(9999)}
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images/a.png", files["images/a.png"])
    else:
        pack(path, files, mode=MODES[ending])
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = {
        "cut off": whole[:middle],
        "wrong bytes": whole[:middle] + bytes(64) + whole[middle + 64 :],
        "another file": b"<html>Not found</html>" * 20,
    }
    path.write_bytes(changed[damage])
    try:
        source = Source(path)
        assert all(source.read(name) is not None for name in source.names)
        assert ending == "tar" and damage == "wrong bytes"  # which has no checksum of its files
    except UserError as error:
        said = str(error).removeprefix(str(path))
        for word in ("Error", "zlib", "zip file", "magic", "Compressed file", "header", "data check", "errno"):
            assert word not in said, said
        assert "damaged or cut off" in said or "neither a zip nor a tar" in said or "Invalid data stream" in said
