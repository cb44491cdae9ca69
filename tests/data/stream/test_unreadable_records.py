"""Records that cannot be read stop the stream by name, or are replaced by the same ones for any number of workers."""

from itertools import islice

import grain
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from training_streams import decode4, digest, pictures, training

from cpnet_jax.data.records import read_record
from cpnet_jax.data.stream import examples
from cpnet_jax.errors import UserError

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


def test_unreadable_records_are_replaced_and_named(replaced):
    expected = [digest(batch) for batch in islice(training(threads=0), len(replaced))]
    without = [record for _, unreadable in replaced for record in unreadable]
    assert set(without) == set(DAMAGED) and len(without) >= 2 * len(DAMAGED), "each once an epoch"
    for (found, unreadable), whole in zip(replaced, expected, strict=True):
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


def test_ids_are_those_of_the_replacements(replaced):
    with replacing() as batches:
        shown = [batches.ids(position) for position in range(12)]
    assert not {identity for ids in shown for identity in ids} & set(map(str, DAMAGED))
    assert all(len(ids) == 4 for ids in shown)
