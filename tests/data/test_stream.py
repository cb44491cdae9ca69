"""Batches depend on the seed and the place in the stream alone; faulty records are refused by name."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import grain
import jax
import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cpnet_jax.data.augment import augment
from cpnet_jax.data.records import augment_record, decode_record, read_record
from cpnet_jax.data.stream import TrainStream, examples
from cpnet_jax.errors import UserError, WorkerDied

CLASSES = 4
decode4 = partial(decode_record, num_classes=CLASSES, ignore_label=255)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def make_records(count: int) -> list[dict]:
    """Make records; the image of record i has colour i."""
    label = png(np.zeros((6, 8), np.uint8))
    return [{"id": f"e{i}", "image": png(np.full((6, 8, 3), i, np.uint8)), "label": label} for i in range(count)]


def noted(record: dict, rng: np.random.Generator) -> dict:
    """A transform whose label shows what the rng returned."""
    return {"image": decode4(record)["image"][:1, :1], "label": rng.integers(256, size=(2, 2)).astype(np.uint8)}


def stream(count: int = 7, **settings) -> TrainStream:
    defaults = {"transform": noted, "batch_size": 4, "seed": 0}
    return TrainStream(make_records(count), **{**defaults, **settings})


def flat(batches) -> list[tuple[int, ...]]:
    """Return (record, numbers drawn from its rng) of every example in order."""
    return [
        (int(image[0, 0, 0]), *label.ravel().tolist())
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]


def order(count: int, epochs: int, **settings) -> np.ndarray:
    """Return the records in the order drawn, one row per epoch."""
    taken = islice(stream(count, batch_size=1, **settings), count * epochs)
    return np.array([example[0] for example in flat(taken)]).reshape(epochs, count)


@pytest.mark.parametrize("threads", [0, 1, 3, 16])
def test_batches_are_the_same_for_any_number_of_threads(threads):
    assert flat(islice(stream(threads=threads), 9)) == flat(islice(stream(), 9))


@pytest.mark.parametrize("position", [0, 1, 2, 7, 30])
def test_starting_at_a_position_equals_skipping_batches(position):
    whole = stream()
    for _ in range(position):
        next(whole)
    resumed = stream(position=position)
    assert resumed.position == whole.position == position
    assert flat(islice(resumed, 3)) == flat(islice(whole, 3))
    assert resumed.position == whole.position == position + 3


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_have_the_batches_of_one_process(count, position):
    parts = [stream(process=(index, count), position=position) for index in range(count)]
    for batch in islice(stream(position=position), 6):
        together = [example for part in parts for example in flat([next(part)])]
        assert sorted(together) == sorted(flat([batch]))


def test_every_process_sees_every_example():
    """Records are shuffled before they are split, so no process has a fixed subset."""
    for index in range(2):
        seen = [example[0] for example in flat(islice(stream(8, process=(index, 2)), 20))]
        assert set(seen) == set(range(8))


@pytest.mark.parametrize("size", [4, 1, 7, 10])
def test_batches_have_their_size_across_epoch_ends(size):
    for batch in islice(stream(7, batch_size=size), 5):
        assert batch["image"].shape == (size, 1, 1, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (size, 2, 2) and batch["label"].dtype == np.uint8
        assert set(batch) == {"image", "label"}


def test_every_epoch_is_another_permutation_of_all_examples():
    epochs = order(11, 6)
    assert (np.sort(epochs, axis=1) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(11))}) == 7


def test_every_seed_has_its_own_order_and_augmentation():
    orders = [tuple(order(11, 1, seed=seed)[0]) for seed in range(5)]
    assert len(set(orders)) == 5
    draws = [tuple(sorted(flat(islice(stream(1, batch_size=1, seed=seed), 3)))) for seed in range(5)]
    assert len(set(draws)) == 5


def test_an_example_is_augmented_differently_each_time():
    drawn = flat(islice(stream(2, batch_size=2), 20))
    assert len(set(drawn)) == len(drawn)


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch_size"):
        stream(batch_size=5, process=(0, 2))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_examples_yields_each_record_once_in_order(threads):
    found = list(examples(make_records(13), decode=decode4, threads=threads))
    assert [example["id"] for example in found] == [f"e{i}" for i in range(13)]
    assert [int(example["image"][0, 0, 0]) for example in found] == list(range(13))
    assert list(examples([], decode=decode4)) == []


# --- digests of a realistic stream ------------------------------------------------------------------------------------

BATCHES, POSITION = 100, 37


def pictures(count: int = 23) -> list[dict]:
    """Records with JPEGs and PNGs of several sizes."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(count):
        size = 30 + index % 7, 50 - index % 5
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        encoded = cv2.imencode((".png", ".jpg")[index % 2], image)[1].tobytes()
        label = rng.integers(0, CLASSES, size).astype(np.uint8)
        records.append({"id": str(index), "image": encoded, "label": png(label)})
    return records


def training(records=None, **settings) -> TrainStream:
    """A stream with every random augmentation; its functions are the package's, so that workers can import them."""
    augmentation = partial(
        augment,
        crop_size=(24, 32),
        scales=(0.5, 1.0, 1.75),
        flip_probability=0.5,
        fill=(124, 116, 104),
        ignore_label=255,
        cat_max_ratio=0.27,
        jitter=True,
    )
    transform = partial(augment_record, num_classes=CLASSES, ignore_label=255, augmentation=augmentation)
    return TrainStream(records or pictures(), transform=transform, batch_size=4, seed=5, **settings)


def digest(batch: dict) -> str:
    return hashlib.sha256(batch["image"].tobytes() + batch["label"].tobytes()).hexdigest()


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """Digests of the first global batches, with one process, no workers and no threads."""
    found = [digest(batch) for batch in islice(training(threads=0), BATCHES)]
    assert len(set(found)) == BATCHES
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(expected, workers):
    with training(workers=workers, threads=2) as batches:
        assert [digest(batch) for batch in islice(batches, BATCHES)] == expected
        assert batches.position == BATCHES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_with_any_number_of_workers(expected, workers):
    with training(workers=workers, threads=1, position=POSITION) as batches:
        assert [digest(batch) for batch in islice(batches, 20)] == expected[POSITION : POSITION + 20]


@pytest.mark.parametrize("position", [0, POSITION])
def test_two_processes_hold_consecutive_parts_of_every_batch(expected, position):
    """Also if a run of one process is resumed with two."""
    parts = [training(process=(index, 2), position=position) for index in range(2)]
    for wanted in expected[position:]:
        halves = [next(part) for part in parts]
        joined = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        assert digest(joined) == wanted


def test_a_bad_record_in_a_worker_raises_user_error():
    bad = [{**make_records(1)[0], "id": "e3", "label": one_value(9)}]
    transform = partial(augment_record, num_classes=CLASSES, ignore_label=255, augmentation=None)
    with (
        TrainStream(bad, transform=transform, batch_size=1, seed=0, workers=1) as batches,
        pytest.raises(UserError, match="e3"),
    ):
        next(batches)


# --- records that cannot be read --------------------------------------------------------------------------------------

# Record -> what is damaged: the image, the label, or the record itself (None).
DAMAGED = {3: "image", 11: "label", 17: None}


class Damaged:
    """Picklable records, some of them damaged."""

    def __init__(self, damaged=DAMAGED):
        self.records, self.damaged = pictures(), damaged

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        part = self.damaged.get(index, "")
        if part is None:
            raise RuntimeError("chunk data hash mismatch")
        return {**self.records[index], part: b"\x89PNG, once"} if part else self.records[index]


def replacing(records=None, **settings):
    return training(Damaged() if records is None else records, replace_unreadable=True, **settings)


@pytest.fixture(scope="module")
def replaced():
    """Digests of the batches of two epochs, and the records replaced in each."""
    with replacing(threads=0) as batches:
        return [(digest(next(batches)), sorted(batches.unreadable)) for _ in range(12)]


def test_unreadable_records_are_replaced_and_named(replaced, expected):
    without = [record for _, unreadable in replaced for record in unreadable]
    assert set(without) == set(DAMAGED) and len(without) >= 2 * len(DAMAGED), "each once an epoch"
    for (found, unreadable), whole in zip(replaced, expected, strict=False):
        assert (found == whole) == (not unreadable), "other examples are as they would have been"


@pytest.mark.parametrize("settings", [{"threads": 3}, {"workers": 2, "threads": 1}], ids=str)
def test_replacements_depend_on_seed_and_place_alone(replaced, settings):
    with replacing(**settings, position=2) as batches:
        assert [(digest(next(batches)), sorted(batches.unreadable)) for _ in range(10)] == replaced[2:]


def test_replacements_are_the_same_for_any_number_of_processes(replaced):
    parts = [replacing(process=(index, 2), threads=1) for index in range(2)]
    for _, unreadable in replaced:
        for part in parts:
            next(part)
        assert sorted(record for part in parts for record in part.unreadable) == unreadable


@pytest.mark.parametrize("record", DAMAGED)
def test_the_reason_for_a_replacement_is_one_line_that_names_the_record(record):
    with replacing() as batches:
        reason = batches.why_unreadable(record)
    assert str(record) in reason and "\n" not in reason and ("cannot be" in reason)


@pytest.mark.parametrize("record", DAMAGED)
def test_unreadable_records_stop_the_stream_by_default(record):
    with training(Damaged({record: DAMAGED[record]})) as batches, pytest.raises(UserError, match=str(record)):
        list(islice(batches, 6))


def test_an_entirely_unreadable_dataset_stops_the_stream():
    with replacing(Damaged(dict.fromkeys(range(23), "image"))) as batches, pytest.raises(UserError, match="prepare"):
        next(batches)


def test_an_evaluation_stops_at_an_unreadable_record():
    with pytest.raises(UserError, match="record 17"):
        list(examples(Damaged({17: None}), decode=decode4))


def test_a_flipped_bit_in_the_record_file_is_reported_with_its_record(tmp_path):
    path = tmp_path / "x.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for index in range(5):
        writer.write(bytes([index]) * 1000)
    writer.close()
    data = bytearray(path.read_bytes())
    data[data.index(bytes([3]) * 10) + 7] ^= 1
    path.write_bytes(data)
    source = ArrayRecordDataSource(str(path))
    records = grain.MapDataset.source(source).map(lambda data: {"image": data})
    assert [read_record(records, index)["image"][0] for index in (0, 1, 2, 4)] == [0, 1, 2, 4]
    with pytest.raises(UserError, match=r"record 3 of the prepared dataset cannot be read \(.*hash mismatch"):
        read_record(records, 3)


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_ids_are_those_of_the_global_batch(uniform, process):
    settings = {"count": 12, "class_presence": PRESENCE if uniform else None}
    whole = [flat([batch]) for batch in islice(stream(**settings), 6)]
    one = stream(**settings, process=process)
    assert [one.ids(position) for position in range(6)] == [[f"e{first}" for first, *_ in batch] for batch in whole]


def test_ids_are_those_of_the_replacements(replaced):
    with replacing() as batches:
        shown = [batches.ids(position) for position in range(12)]
    assert not {identity for ids in shown for identity in ids} & set(map(str, DAMAGED))
    assert all(len(ids) == 4 for ids in shown)


# --- worker processes -------------------------------------------------------------------------------------------------


def test_a_killed_worker_stops_the_stream_at_once_with_one_line():
    with training(workers=2, threads=1) as batches:
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=r"worker process .* exit code -9") as caught:
            list(islice(batches, 50))
        assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value) and caught.value.exit_status not in (0, 1, 2, 3)


def test_no_worker_outlives_a_killed_process(tmp_path):
    code = """
import multiprocessing, os, signal
from data import test_stream
if __name__ == "__main__":
    batches = test_stream.training(workers=1, threads=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    killed = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    status = Path(f"/proc/{int(killed.stdout)}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_closing_frees_shared_memory():
    before = set(Path("/dev/shm").glob("psm_*"))
    with training(workers=1, threads=1) as batches:
        kept = [jax.device_put(batch["image"]) for batch in islice(batches, 5)]
    deadline = time.monotonic() + 5
    while set(Path("/dev/shm").glob("psm_*")) - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(kept) == 5


# --- class-uniform sampling -------------------------------------------------------------------------------------------

# Every record shows class 0, some show class 1, one shows class 2, none shows class 3.
PRESENCE = np.zeros((12, 4), bool)
PRESENCE[:, 0] = PRESENCE[::4, 1] = PRESENCE[5, 2] = True


def drawn(rounds: int, **settings) -> np.ndarray:
    """Return the records in the order drawn, one row per round."""
    taken = flat(islice(stream(12, class_presence=PRESENCE, batch_size=3, **settings), rounds))
    return np.array([example[0] for example in taken]).reshape(rounds, 3)


def test_every_round_draws_every_class_once():
    rounds = drawn(60)
    assert (rounds == 5).any(axis=1).all()
    assert np.isin(rounds, [0, 4, 8]).any(axis=1).all()
    turns = [tuple(np.where(row == 5, 2, np.isin(row, [0, 4, 8]) * 1)) for row in rounds]
    assert len(set(turns)) > 3, "in another order each time"


def test_records_of_a_class_are_drawn_equally_often():
    counts = np.bincount(drawn(36).ravel(), minlength=12)
    others = np.setdiff1d(np.arange(12), [0, 4, 5, 8])
    assert (counts[others] == 3).all(), "36 turns of class 0 over 12 records"
    assert (counts[[0, 4, 8]] == 3 + 12).all(), "and 36 turns of class 1 over 3"
    assert counts[5] == 3 + 36


def test_class_uniform_batches_depend_on_seed_and_position_alone():
    settings = {"count": 12, "class_presence": PRESENCE, "batch_size": 4}
    first = [flat([batch]) for batch in islice(stream(**settings), 12)]
    assert [flat([batch]) for batch in islice(stream(**settings, threads=0, position=5), 7)] == first[5:]
    assert [flat([batch]) for batch in islice(stream(**settings, seed=1), 12)] != first
    halves = [flat(islice(stream(**settings, process=(index, 2)), 12)) for index in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(example for batch in first for example in batch)


# --- decode_record ----------------------------------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
LABEL = np.random.default_rng(1).choice(np.array([0, 1, 2, 3, 255], np.uint8), (5, 9))


def record(**changes) -> dict:
    return {"id": b"town_017", "image": png(IMAGE[..., ::-1]), "label": png(LABEL), **changes}


def one_value(value: int) -> bytes:
    label = np.zeros((5, 9), np.uint8)
    label[3, 4] = value
    return png(label)


def test_decode_record_returns_rgb_image_and_label_indices():
    example = decode4(record())
    assert example["id"] == "town_017"
    assert np.array_equal(example["image"], IMAGE) and example["image"].dtype == np.uint8
    assert np.array_equal(example["label"], LABEL) and example["label"].dtype == np.uint8
    assert decode4(record(id="as_text"))["id"] == "as_text"


def test_grey_images_become_three_channels():
    image = decode4(record(image=png(IMAGE[..., 0])))["image"]
    assert np.array_equal(image, IMAGE[..., :1].repeat(3, -1))


def test_exif_orientation_does_not_turn_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees", although the label was made for the stored pixels
    Image.fromarray(IMAGE).save(tmp_path / "turned.jpg", exif=exif)
    assert decode4(record(image=(tmp_path / "turned.jpg").read_bytes()))["image"].shape == IMAGE.shape


def test_a_palette_label_never_becomes_colours(tmp_path):
    """A palette PNG is read as its indices or refused."""
    picture = Image.fromarray(LABEL)
    picture.putpalette(np.random.default_rng(2).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert picture.mode == "P"
    picture.save(tmp_path / "palette.png")
    try:
        label = decode4(record(label=(tmp_path / "palette.png").read_bytes()))["label"]
    except UserError as error:
        assert "town_017" in str(error)
    else:
        assert np.array_equal(label, LABEL)


BAD = {
    "image is not an image": {"image": b"not an image"},
    "image is empty": {"image": b""},
    "image is cut off": {"image": png(IMAGE)[:60]},
    "label is not an image": {"label": b"not an image"},
    "label is empty": {"label": b""},
    "label of another size": {"label": png(LABEL[:4])},
    "label turned": {"label": png(np.ascontiguousarray(LABEL.T))},
    "label of three channels": {"label": png(LABEL[..., None].repeat(3, -1))},
    "label equal to the number of classes": {"label": one_value(CLASSES)},
    "label 254": {"label": one_value(254)},
    "label 300": {"label": png(np.full((5, 9), 300, np.uint16))},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_decode_record_refuses_a_faulty_example_by_name(changes):
    with pytest.raises(UserError, match="town_017") as caught:
        decode4(record(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_record_in_a_thread_raises_user_error(threads):
    """The decoding threads do not wrap the exception."""
    records = make_records(5)
    records[3]["label"] = one_value(9)
    with pytest.raises(UserError, match="e3"):
        settings = {"transform": noted, "batch_size": 1, "seed": 0, "threads": threads}
        list(islice(TrainStream(records, **settings), 5))
    with pytest.raises(UserError, match="e3"):
        list(examples(records, decode=decode4, threads=threads))
