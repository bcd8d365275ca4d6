"""Batches: the same for any workers, processes and resume; failures replaced and counted."""

import itertools
import json
import shutil

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import examples, pipeline, registry, transforms
from depth_anything_jax.data.pipeline import DataError, train_batches

SIZE = 28


def write_images(folder, count, *, height=30, width=44, first=0):
    """Images whose blue value names them: a crop still says which record it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    for i in range(count):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels[..., 0] = first + i  # OpenCV writes blue first
        assert cv2.imwrite(str(folder / f"{i:03d}.png"), pixels)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven labelled pairs and two folders of 11 and 4 images, as a data config."""
    root = tmp_path_factory.mktemp("data")
    write_images(root / "rgb", 7)
    (root / "depth").mkdir()
    for i in range(7):
        depth = np.random.default_rng(i).integers(500, 9000, (30, 44)).astype(np.uint16)
        depth[:3] = 0
        cv2.imwrite(str(root / f"depth/{i:03d}.png"), depth)
    write_images(root / "photos", 11)
    write_images(root / "more", 4, first=100)
    pairs = {"type": "pairs", "images": str(root / "rgb"), "depths": str(root / "depth")}
    return {
        "labelled": [pairs | {"fmt": "nyu"}],
        "unlabelled": [
            {"type": "folder", "path": str(root / "photos")},
            {"type": "folder", "path": str(root / "more")},
        ],
        "mix": "size",
        "workers": 0,
        "threads": 0,
    }


def batches(data, count, *, start_step=0, **options):
    """`count` batches as a list."""
    sizes = {"labelled_batch": 4, "unlabelled_batch": 8, "size": SIZE, "seed": 7} | options
    with train_batches(data, start_step=start_step, **sizes, patch_size=14) as stream:
        got = list(itertools.islice(stream, count))
        assert stream.step == start_step + count
    return got


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for part in x:
            assert x[part].keys() == y[part].keys()
            for field in x[part]:
                np.testing.assert_array_equal(x[part][field], y[part][field], f"{part}/{field}")


def which(batch, part="unlabelled"):
    """The images' numbers, from their blue value; resizing a constant channel keeps it."""
    image = batch[part]["image"]
    return [round(float(v) * 255) for v in image[:, 14, 14, 2]]


def test_shapes_and_types(data):
    (batch,) = batches(data, 1)
    assert set(batch) == {"labelled", "unlabelled"}
    labelled, unlabelled = batch["labelled"], batch["unlabelled"]
    expected = {
        "image": ((4, SIZE, SIZE, 3), np.float32),
        "disparity": ((4, SIZE, SIZE), np.float32),
        "valid": ((4, SIZE, SIZE), np.bool_),
        "sky": ((4, SIZE, SIZE), np.bool_),
        "shift_known": ((4,), np.bool_),
    }
    assert {k: (v.shape, v.dtype) for k, v in labelled.items()} == expected
    assert {k: v.shape for k, v in unlabelled.items()} == {"image": (8, SIZE, SIZE, 3)}
    assert labelled["shift_known"].all()
    assert (labelled["disparity"][labelled["valid"]] >= 1 / 9).all()
    assert not labelled["disparity"][~labelled["valid"]].any()


def test_a_batch_of_both_kinds_of_labels_is_disparity(tmp_path):
    """The inverse is that of the values in the file, to the bit."""
    write_images(tmp_path, 2, height=SIZE, width=SIZE)
    depth = np.random.default_rng(0).uniform(1, 9, (SIZE, SIZE)).astype(np.float32)
    depth[:3] = 0
    np.save(tmp_path / "0.npy", depth)
    np.save(tmp_path / "1.npy", depth)
    rows = [
        {"rgb": "000.png", "depth": "0.npy"},
        {"rgb": "001.png", "depth": "1.npy", "kind": "disparity"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    data = {"labelled": {"type": "rgbd", "path": str(tmp_path)}, "threads": 0}
    (batch,) = batches(data, 1, labelled_batch=2, unlabelled_batch=0)
    part = batch["labelled"]
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    for row, number in enumerate(which(batch, "labelled")):
        expected = (inverse, depth)[number]
        found = {side: part["disparity"][row][:, ::side] for side in (1, -1)}  # a flip is drawn
        assert any((x == expected).all() for x in found.values())
        assert part["valid"][row].sum() == (depth > 0).sum()
        assert part["shift_known"][row] == (number == 0)


def test_parts_of_size_zero_are_absent(data):
    assert set(batches(data, 1, unlabelled_batch=0)[0]) == {"labelled"}
    assert set(batches(data, 1, labelled_batch=0)[0]) == {"unlabelled"}


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 3), (2, 0), (3, 2)])
def test_workers_and_threads_change_nothing(data, workers, threads):
    parallel = data | {"workers": workers, "threads": threads}
    assert_same(batches(parallel, 4, start_step=2), batches(data, 4, start_step=2))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(data, processes):
    whole = batches(data, 3)
    shares = [batches(data, 3, process_index=i, process_count=processes) for i in range(processes)]
    for step, batch in enumerate(whole):
        for part, fields in batch.items():
            for field, values in fields.items():
                joined = np.concatenate([share[step][part][field] for share in shares])
                np.testing.assert_array_equal(joined, values, f"{part}/{field}")


def test_resuming_continues_exactly(data):
    straight = batches(data, 6)
    assert_same(batches(data, 3, start_step=3), straight[3:])
    # Another number of processes may take over.
    (share,) = batches(data, 1, start_step=5, process_index=1, process_count=2)
    image = straight[5]["unlabelled"]["image"]
    np.testing.assert_array_equal(share["unlabelled"]["image"], image[4:])


def test_seeds_differ_and_parts_shuffle_apart(data):
    one, other = batches(data, 3), batches(data, 3, seed=8)
    assert [which(b) for b in one] != [which(b) for b in other]
    pairs = data["labelled"][0]
    both = data | {"unlabelled": [{"type": "folder", "path": pairs["images"]}]}
    got = batches(both, 4, labelled_batch=4, unlabelled_batch=4)
    assert [which(b, "labelled") for b in got] != [which(b) for b in got]


def test_mix_by_size_gives_each_record_once_an_epoch(data):
    seen = [n for b in batches(data, 30, labelled_batch=0, unlabelled_batch=5) for n in which(b)]
    everything = sorted([*range(11), *range(100, 104)])
    epochs = [seen[i : i + 15] for i in range(0, 150, 15)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(e) for e in epochs}) == 10  # each in another order


def test_mix_by_weights(data):
    photos, more = data["unlabelled"]
    weighted = data | {
        "mix": "weights",
        "unlabelled": [photos | {"weight": 1}, more | {"weight": 3}],
    }
    got = batches(weighted, 10, labelled_batch=0)
    seen = [n for b in got for n in which(b)]
    assert sum(n >= 100 for n in seen) == 60  # of 80
    small = [n for n in seen if n >= 100]
    assert all(sorted(small[i : i + 4]) == [100, 101, 102, 103] for i in range(0, 60, 4))


def test_augmentations_differ_between_epochs_and_rows(data):
    one_image = data | {"unlabelled": [data["unlabelled"][0] | {"slice": [0, 1]}]}
    got = batches(one_image, 4, labelled_batch=0, unlabelled_batch=4)
    crops = {image.tobytes() for b in got for image in b["unlabelled"]["image"]}
    assert len(crops) >= 12  # 15 places × 2 flips, 16 draws


def test_each_example_is_its_record_under_its_own_geometry(data):
    """Row j of step s is example i = s·B + j: the planned record, cropped as (seed, i) draws."""
    source = registry.make(data["labelled"][0])
    reader = examples.Examples(
        "labelled", [source], None, size=SIZE, seed=7, labels=True, patch_size=14
    )
    got = batches(data | {"metric": True}, 2)  # labels as they are recorded
    for step, row in itertools.product(range(2), range(4)):
        index = step * 4 + row
        _, number = reader.record_of(index)
        record = source[number]
        rng = np.random.default_rng([7, 0, index])
        geometry = transforms.draw_geometry(rng, 30, 44, SIZE, patch_size=14)
        expected = transforms.apply_geometry(record, geometry, SIZE)
        for field, value in expected.items():
            np.testing.assert_array_equal(got[step]["labelled"][field][row], value)


# --- failures ----------------------------------------------------------------------------------


@pytest.fixture
def broken(data, tmp_path):
    """The photos with number 5 cut in half, as a config without labels."""
    shutil.copytree(data["unlabelled"][0]["path"], tmp_path / "photos")
    path = tmp_path / "photos" / "005.png"
    path.write_bytes(path.read_bytes()[:1000])
    return data | {"unlabelled": [{"type": "folder", "path": str(tmp_path / "photos")}]}


SIZES = {"labelled_batch": 0, "unlabelled_batch": 6, "size": SIZE, "seed": 3}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failed_record_is_replaced_by_its_neighbour_and_counted(data, broken, workers):
    whole = data | {"unlabelled": data["unlabelled"][:1]}
    with train_batches(whole, **SIZES, patch_size=14) as stream:
        expected = list(itertools.islice(stream, 6))
    told = []
    with train_batches(
        broken | {"workers": workers}, **SIZES, on_failure=told.append, patch_size=14
    ) as stream:
        got = []
        for batch in itertools.islice(stream, 6):
            got.append(batch)
            assert stream.keys["unlabelled"] == [f"{n:03}.png" for n in which(batch)]
        planned = [n for b in expected for n in which(b)]
        assert planned.count(5) >= 2
        assert stream.failures == planned.count(5)
        assert stream.seen == 36
        assert {f.key for f in stream.failed} == {"005.png"}
        assert "truncated" in stream.failed[0].error
        assert told == stream.failed and len(told) == 1  # once, though it failed again
    assert [n for b in got for n in which(b)] == [6 if n == 5 else n for n in planned]
    for a, b, numbers in zip(expected, got, map(which, expected), strict=True):
        for row, number in enumerate(numbers):
            if number != 5:  # nothing after the failure has moved
                image = a["unlabelled"]["image"][row]
                np.testing.assert_array_equal(b["unlabelled"]["image"][row], image)


def test_the_last_record_is_followed_by_the_first(data, broken, monkeypatch):
    monkeypatch.setattr(pipeline, "FEW_LIMIT", 0.5)
    folder = broken["unlabelled"][0]["path"]
    shutil.copy(f"{folder}/005.png", f"{folder}/010.png")
    with train_batches(broken, **SIZES, patch_size=14) as stream:
        numbers = {n for b in itertools.islice(stream, 6) for n in which(b)}
    assert numbers == set(range(11)) - {5, 10}


def test_too_many_failures_stop_the_run(broken):
    folder = broken["unlabelled"][0]["path"]
    shutil.copy(f"{folder}/005.png", f"{folder}/002.png")
    with train_batches(broken, **SIZES, patch_size=14) as stream:
        next(stream)  # an epoch is not over: too few to judge
        with pytest.raises(DataError) as caught:
            for _ in range(6):
                next(stream)
        assert stream.seen == 12 and len(stream.failed) == 2
    text = str(caught.value)
    assert "2 of 11 records cannot be read, and up to 1 may fail" in text and "prepare_data" in text
    assert text.count("005.png") == text.count("002.png") == 2  # its name, and the error's


def test_few_failures_do_not(broken):
    told = []
    with train_batches(broken, **SIZES, on_failure=told.append, patch_size=14) as stream:
        list(itertools.islice(stream, 10))
        assert stream.failures > 3
        assert [f.key for f in stream.failed] == [f.key for f in told] == ["005.png"]


@pytest.mark.parametrize(
    ("records", "allowed"),
    [(1, 1), (9, 1), (30, 3), (100, 10), (1000, 10), (10_000, 10), (62_000, 62)],
)
def test_how_many_records_may_fail(records, allowed):
    assert pipeline.allowed_failures(records) == allowed


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_cannot_be_read_stops_at_once(data, tmp_path, workers):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("<html>not found</html>")
    dead = {"unlabelled": {"type": "folder", "path": str(tmp_path)}, "workers": workers}
    with (
        train_batches(dead, **SIZES, patch_size=14) as stream,
        pytest.raises(DataError, match=r"3 unlabelled records in a row(.|\n)*\.jpg: FormatError"),
    ):
        next(stream)


def test_closed_batches_say_so(data):
    stream = train_batches(
        data, labelled_batch=4, unlabelled_batch=0, size=SIZE, seed=0, patch_size=14
    )
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_wrong_configs_are_refused(data):
    def make(cfg=data, **options):
        train_batches(
            cfg,
            **({"labelled_batch": 4, "unlabelled_batch": 8, "size": SIZE, "seed": 0} | options),
            patch_size=14,
        )

    with pytest.raises(ValueError, match="size=30 is not a multiple of the 14"):
        make(size=30)
    with pytest.raises(ValueError, match="labelled batch 4 does not divide over 3 processes"):
        make(process_count=3)
    with pytest.raises(ValueError, match="process_index=2 of process_count=2"):
        make(process_index=2, process_count=2)
    with pytest.raises(ValueError, match="mix='sizes': one of size, weights"):
        make(data | {"mix": "sizes"})
    with pytest.raises(ValueError, match="'weight' needs mix='weights'"):
        make(data | {"labelled": [data["labelled"][0] | {"weight": 2}]})
    with pytest.raises(ValueError, match="positive 'weight' in each source"):
        make(data | {"mix": "weights"})
    with pytest.raises(ValueError, match=r"data\.labelled names no source"):
        make(data | {"labelled": []})
    with pytest.raises(ValueError, match=r"data\.labelled names sources without labels: photos"):
        make(data | {"labelled": data["unlabelled"][:1]})
    with pytest.raises(ValueError, match=r"data\.workers=-1"):
        make(data | {"workers": -1})
    with pytest.raises(ValueError, match="both batch sizes are 0"):
        make(labelled_batch=0, unlabelled_batch=0)


# --- labels beside unlabelled images ------------------------------------------------------------


def test_unlabelled_images_carry_the_labels_they_are_given(data, tmp_path):
    """Labels at another resolution than the image: they follow its crop."""
    for i in range(11):
        label = np.full((SIZE, 42), i + 1, np.uint16)
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), label)
    labels = {"type": "files", "path": str(tmp_path)}
    cfg = data | {"unlabelled": [data["unlabelled"][0] | {"labels": labels}]}
    (batch,) = batches(cfg, 1)
    part = batch["unlabelled"]
    assert set(part) == {"image", "disparity", "valid", "sky", "shift_known"}
    assert not part["shift_known"].any() and part["valid"].all()
    np.testing.assert_array_equal(part["disparity"][:, 0, 0], np.array(which(batch)) + 1)


def test_real_pairs_and_photos_make_batches(shared):
    cfg = {
        "labelled": {"type": "rgbd", "path": str(shared / "data" / "labelled")},
        "unlabelled": {"type": "folder", "path": str(shared / "data" / "photos")},
    }
    with train_batches(
        cfg, labelled_batch=4, unlabelled_batch=8, size=112, seed=0, patch_size=14
    ) as stream:
        for batch in itertools.islice(stream, 3):
            image = batch["unlabelled"]["image"]
            assert 0.1 < image.mean() < 0.9 and np.isfinite(image).all()
            label = batch["labelled"]
            assert (label["disparity"][label["valid"]] > 0).all()
        assert stream.failures == 0
