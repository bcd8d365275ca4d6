"""Draws of examples: each part has its own, and each example is the record it is said to be."""

import numpy as np

from depth_anything_jax.data import examples, pipeline


class Numbered:
    """Pictures that are their own number."""

    labelled = False

    def __init__(self, name, first, count):
        self.name, self.first, self.count = name, first, count

    def __len__(self):
        return self.count

    def key(self, index):
        return f"{self.name}/{index}"

    def __getitem__(self, index):
        columns = np.arange(40, dtype=np.uint8)  # no flip and no crop looks like another
        image = np.zeros((30, 40, 3), np.uint8)
        image[..., 0], image[..., 1] = self.first + index, columns
        image[..., 2] = np.arange(30, dtype=np.uint8)[:, None]
        return {"key": self.key(index), "image": image}


def reader(part="unlabelled", weights=None, counts=(4, 5), seed=0):
    firsts = np.cumsum([0, *counts])
    sources = [Numbered(f"{i}", int(firsts[i]), n) for i, n in enumerate(counts)]
    return examples.Examples(
        part, sources, weights, size=28, patch_size=14, seed=seed, labels=False
    )


def test_the_same_record_is_cropped_and_flipped_otherwise_in_the_other_part():
    parts = [reader(part, counts=(1,)) for part in examples.PARTS]
    geometries = [[r.read(i)[0]["image"] for i in range(8)] for r in parts]
    same = [np.array_equal(a, b) for a, b in zip(*geometries, strict=True)]
    assert not all(same), "crops and flips do not depend on the part"


def test_every_record_of_every_source_comes_once_an_epoch_and_is_the_one_named():
    found = reader()
    numbers = [int(found.plan[i]) for i in range(9)]
    assert sorted(numbers) == list(range(9))
    for i, number in enumerate(numbers):
        source, record = found.record_of(i)
        assert found.starts[source] + record == number
        assert 0 <= record < len(found.sources[source])
        image = found.read(i)[0]["image"]
        assert np.round(255 * np.median(image[..., 0])) == number


def test_a_weighted_mixture_takes_each_source_as_often_as_its_weight_says():
    found = reader(weights=(1.0, 3.0))
    sources = [found.record_of(i)[0] for i in range(80)]
    assert 18 <= sources.count(0) <= 22
    assert {found.record_of(i) for i in range(80)} >= {(1, k) for k in range(5)}


def test_sources_of_one_size_are_shuffled_apart():
    found = reader(weights=(1.0, 1.0), counts=(40, 40))
    orders = [[r for s, r in map(found.record_of, range(80)) if s == k] for k in (0, 1)]
    assert orders[0] != orders[1]


def test_parts_and_seeds_are_shuffled_apart():
    for weights in (None, (1.0, 1.0)):
        orders = [
            [int(reader(part, weights, seed=seed).plan[i]) for i in range(9)]
            for part, seed in (("labelled", 0), ("unlabelled", 0), ("unlabelled", 1))
        ]
        assert orders[0] != orders[1] != orders[2]


def test_processes_take_rows_of_their_own_and_steps_follow_each_other():
    def numbers(process, step):
        rows = pipeline._Steps({"unlabelled": (reader(), 4)}, process, 2, 1)[step]["unlabelled"]
        return [int(np.round(255 * np.median(x[..., 0]))) for x in rows["image"]]

    planned = [int(reader().plan[i]) for i in range(12)]
    found = [numbers(process, step) for step in range(3) for process in range(2)]
    assert sum(found, []) == planned


def test_a_record_that_fails_is_replaced_by_the_next_one():
    class Holey(Numbered):
        def __getitem__(self, index):
            if index == 1:
                raise ValueError("cut off")
            return super().__getitem__(index)

    found = reader(counts=(4,))
    found.sources = [Holey("0", 0, 4)]
    place = next(i for i in range(4) if found.record_of(i) == (0, 1))
    example, failures, key = found.read(place)
    assert [f.key for f in failures] == ["0/1"] and key == "0/2"
    assert np.round(255 * np.median(example["image"][..., 0])) == 2
