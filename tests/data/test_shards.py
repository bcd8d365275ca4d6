"""data/shards.py: the bytes of older versions, a shard complete or absent, what differs by name."""

import pathlib

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from depth_anything_jax.data import prepared_shards
from depth_anything_jax.data.pseudo_labels.label_store import LabelWriter
from depth_anything_jax.data.shards import ShardWriter, changes

OLD = pathlib.Path(__file__).parents[1] / "fixtures" / "old_data"


def records_of(file):
    reader = ArrayRecordReader(str(file))
    return [reader.read([i])[0] for i in range(reader.num_records())]


@pytest.mark.parametrize("file", sorted(OLD.glob("*/**/*array_record*")), ids=lambda f: f.name)
def test_shards_have_the_bytes_that_older_versions_wrote(file, tmp_path):
    records = records_of(file)
    count = len(records)
    if file.is_relative_to(OLD / "labels"):
        identity = {"source": {"count": count}, "shard_size": 1000}
        writer = LabelWriter(tmp_path, identity)
        writer.write_shard(0, records, {})
    else:
        plan = {"name": file.parents[1].name, "records": count, "shard_size": 1000}
        writer = prepared_shards.shard_writer(plan, tmp_path)
        writer.write(0, iter(records))
    assert writer.file(0).name == file.name and writer.done(0)
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_a_shard_is_complete_or_absent_and_leftovers_go(tmp_path):
    def breaks():
        yield b"one"
        raise RuntimeError("the disk is full")

    writer = ShardWriter(tmp_path, "a-{shard}-of-{shards}", count=5, size=2, options="group_size:1")
    assert [len(writer.range(s)) for s in range(writer.shards)] == [2, 2, 1]
    with pytest.raises(RuntimeError, match="full"):
        writer.write(1, breaks())
    assert not writer.done(1) and not writer.file(1).exists()
    writer.write(1, [b"one", b"two"])
    assert writer.done(1) and records_of(writer.file(1)) == [b"one", b"two"]
    assert [p.name for p in tmp_path.iterdir()] == ["a-1-of-3"]
    writer.file(1).write_bytes(writer.file(1).read_bytes()[:100])  # as a full disk leaves it
    assert not writer.done(1)


def test_two_writers_of_one_shard_do_not_disturb_each_other(tmp_path):
    """Runners of Beam start work a second time where the first is slow or seems lost."""
    writers = [ShardWriter(tmp_path, "a", 1, 1, "group_size:1", alone=False) for _ in range(2)]

    def while_the_other_does_too():
        yield b"one"
        writers[1].write(0, [b"one"])

    writers[0].write(0, while_the_other_does_too())
    assert records_of(tmp_path / "a") == [b"one"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_changes_are_named():
    found = changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
    assert found == ["b: 2 there, 3 now", "c: None there, 4 now"]
