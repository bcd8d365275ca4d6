"""Keys of packed data sets, all at once and one by one."""

import hashlib

import pytest

from depth_anything_jax.data.pseudo_labels.label_store import keys_digest
from depth_anything_jax.data.sources.base import Subset
from depth_anything_jax.data.sources.numbered_keys import AllBut, find, joined_keys


class Numbered:
    """As many records as are wanted, without any bytes."""

    name = "numbered"
    key_ends = "train[:90%]:", "@0123abcd"

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def key(self, index):
        return f"{index}".join(self.key_ends)

    def __getitem__(self, index):
        raise NotImplementedError("no bytes")


@pytest.mark.parametrize("count", [1, 9, 11, 999, 1000, 1001, 9_999, 10_000, 10_001, 123_456])
def test_blocks_are_the_keys_one_by_one(count):
    source = Numbered(count)
    for part in (source, Subset(source, range(count // 3, count))):
        one_by_one = b"".join(part.key(i).encode() + b"\n" for i in range(len(part)))
        assert b"".join(joined_keys(part)) == one_by_one
        assert keys_digest(part) == hashlib.sha256(one_by_one).hexdigest()


def test_other_sources_and_parts_with_gaps():
    class Named(Numbered):
        key_ends = None

        def key(self, index):
            return f"é{index}.jpg"

    assert b"".join(joined_keys(Named(3))).decode() == "é0.jpg\né1.jpg\né2.jpg\n"
    assert find(Named(30), ["é7.jpg", "é99.jpg"]) == {"é7.jpg": 7}
    gaps = Subset(Numbered(40_000), range(0, 40_000, 7))
    assert b"".join(joined_keys(gaps)).count(b"\n") == len(gaps)


def test_find():
    source = Numbered(70_000_000)
    key = source.key(61_234_567)
    others = [
        source.key(70_000_000),
        key.upper(),
        key.replace("6", "06", 1),
        "train[:90%]:@0123abcd",
    ]
    assert find(source, [key, *others]) == {key: 61_234_567}
    part = Subset(source, range(61_000_000, 70_000_000))
    assert find(part, [key, source.key(5)]) == {key: 234_567}
    assert find(Subset(source, [4, 61_234_567]), [key]) == {key: 1}


def test_all_but():
    for without in ((), (0,), (9,), (0, 1, 5, 9), range(10)):
        expected = [i for i in range(10) if i not in without]
        numbers = AllBut(10, without)
        assert list(numbers) == expected and len(numbers) == len(expected)
        with pytest.raises(IndexError):
            numbers[len(expected)]
    assert AllBut(10, (3,))[-1] == 9


def test_of_many_there_is_no_table():
    """With one these lines would take gigabytes and minutes."""
    numbers = AllBut(62_000_000, range(0, 62_000, 2))
    assert numbers[61_968_999] == 61_999_999
    assert len(find(Numbered(62_000_000), [f"train[:90%]:{i}@0123abcd" for i in range(99)])) == 99
    assert next(joined_keys(Numbered(62_000_000))).startswith(b"train[:90%]:0@0123abcd\n")
