"""Pseudo-label stores and other tools' label files, joined to image sources."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import pipeline, registry, transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels import join, label_codec, label_store
from depth_anything_jax.data.pseudo_labels.label_codec import LabelError
from depth_anything_jax.data.pseudo_labels.label_store import LabelStore, LabelWriter
from depth_anything_jax.data.registry import attach
from depth_anything_jax.data.sources.base import Subset
from depth_anything_jax.inference import depth_files
from depth_anything_jax.inference.depth import Depth
from tests.helpers.photos import Photos

SIZE = 28


def brightness(image):
    """The stand-in teacher: a map that belongs to its image, pixel by pixel."""
    return image.mean(-1)


def make_store(path, source, shard_size=3, errors=()):
    identity = {
        "source": {"count": len(source), "keys_sha256": label_store.keys_digest(source)},
        "shard_size": shard_size,
    }
    writer = LabelWriter(path, identity, {"licence_chain": [{"role": "teacher"}]})
    for shard in range(writer.shards):
        records, broken = [], {}
        for i in writer.range(shard):
            key, image = source.key(i), source[i]["image"]
            if i in errors:
                broken[key] = "torn file"
                records.append(label_codec.encode_invalid(key, "torn file"))
                continue
            shape = transforms.network_size(*image.shape[:2], size=SIZE, patch_size=14)
            label = brightness(transforms.resize_image(image, *shape))
            records.append(label_codec.encode(label, key, image.shape[:2]))
        writer.write_shard(shard, records, broken)
    writer.finish()
    return LabelStore(path)


# Records


@pytest.mark.parametrize("low, high", [(0, 1), (-3e4, 5e5), (1e-7, 3e-7), (5, 5.00001)])
def test_a_label_comes_back_within_half_a_step(low, high):
    values = np.random.default_rng(0).uniform(low, high, (37, 23)).astype(np.float32)
    back = label_codec.decode(label_codec.encode(values, "a", (5, 6)), "a")
    step = (float(values.max()) - float(values.min())) / 65534
    # Half a step, and float32 rounding of the result.
    bound = 0.5 * step + np.abs(values).max() * 6e-8
    assert np.abs(back.values.astype(np.float64) - values).max() <= bound
    assert back.valid.all() and back.image_hw == (5, 6)
    assert back.values.dtype == np.float32


def test_a_label_keeps_its_extremes_exactly():
    values = np.random.default_rng(0).uniform(0, 9, (8, 9)).astype(np.float32)
    back = label_codec.decode(label_codec.encode(values, "a", (8, 9)), "a").values
    assert back.min() == values.min() and back.max() == values.max()


def test_non_finite_values_are_invalid_and_do_not_touch_the_range():
    values = np.linspace(2, 3, 20, dtype=np.float32).reshape(4, 5)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -np.inf
    back = label_codec.decode(label_codec.encode(values, "a", (4, 5)), "a")
    assert (back.valid == np.isfinite(values)).all()
    assert (back.values[~back.valid] == 0).all()
    np.testing.assert_allclose(back.values[back.valid], values[back.valid], atol=0.5 / 65534)


def test_a_constant_label_comes_back_exactly():
    values = np.full((4, 5), 0.37, np.float32)
    assert (label_codec.decode(label_codec.encode(values, "a", (4, 5)), "a")[0] == values).all()


def test_a_label_without_a_finite_value_is_an_error():
    with pytest.raises(LabelError, match="a: the teacher gave no finite value"):
        label_codec.encode(np.full((2, 2), np.nan, np.float32), "a", (2, 2))


def test_a_record_of_another_image_is_refused():
    data = label_codec.encode(np.zeros((2, 2), np.float32), "a/1.jpg", (2, 2))
    with pytest.raises(LabelError, match=r"b/2\.jpg belongs to a/1\.jpg"):
        label_codec.decode(data, "b/2.jpg")


# Stores


def test_position_i_is_record_i_across_shards(tmp_path):
    source = Photos(7)
    store = make_store(tmp_path / "out", source)
    assert len(store) == 7
    for i in range(7):
        expected = brightness(
            transforms.resize_image(
                source[i]["image"],
                *transforms.network_size(*source[i]["image"].shape[:2], size=SIZE, patch_size=14),
            )
        )
        found = store.read(i, source.key(i)).values
        assert found.shape == expected.shape
        # 16 bits of a range below 1.2.
        np.testing.assert_allclose(found, expected, atol=1e-5)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "card.json",
        *(f"labels-0000{i}-of-00003.array_record" for i in range(3)),
    ]


def test_shards_concatenate_to_the_source_for_any_reader_of_array_records(tmp_path):
    grain = pytest.importorskip("grain")
    source = Photos(7)
    make_store(tmp_path / "out", source)
    shards = sorted(str(p) for p in (tmp_path / "out").glob("*.array_record"))
    records = grain.sources.ArrayRecordDataSource(shards)
    assert len(records) == 7
    assert [json.loads(records[i].split(b"\n")[0])["key"] for i in range(7)] == [
        source.key(i) for i in range(7)
    ]


def test_an_incomplete_store_is_refused(tmp_path):
    identity = {"source": {"count": 2, "keys_sha256": "0"}, "shard_size": 1}
    LabelWriter(tmp_path, identity)
    with pytest.raises(LabelError, match="interrupted; run the same pseudo_label command again"):
        LabelStore(tmp_path)


def test_finish_names_missing_shards(tmp_path):
    writer = LabelWriter(tmp_path, {"source": {"count": 2, "keys_sha256": ""}, "shard_size": 1})
    writer.write_shard(1, [label_codec.encode_invalid("b", "x")], {"b": "x"})
    with pytest.raises(LabelError, match=r"shards \[0\] of 2 are missing"):
        writer.finish()


def test_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(LabelError, match="--checkpoint TEACHER --data IMAGES --out"):
        LabelStore(tmp_path / "nothing")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: "{",
        lambda card: "[" * 100_000,
        lambda card: "[]",
        lambda card: {"format": 1},
        lambda card: card | {"identity": 5},
        lambda card: card | {"identity": card["identity"] | {"shard_size": "3"}},
        lambda card: card | {"identity": card["identity"] | {"source": {"count": 7}}},
        lambda card: card | {"complete": "yes"},
        lambda card: card | {"shards": 5},
        lambda card: card | {"shards": [{"start": 0}]},
        lambda card: card | {"shards": [{"file": "../a.array_record"}]},
        lambda card: card | {"invalid": ["a"]},
    ],
)
def test_a_damaged_card(tmp_path, change):
    make_store(tmp_path, Photos(2))
    file = tmp_path / "card.json"
    card = change(json.loads(file.read_text()))
    file.write_text(card if isinstance(card, str) else json.dumps(card))
    with pytest.raises(LabelError, match=f"^{file}: .*label again"):
        LabelStore(tmp_path)


def test_reads_from_many_threads_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(label_store, "OPEN_SHARDS", 2)  # readers come and go
    source = Photos(12)
    store = make_store(tmp_path / "out", source, shard_size=2)
    expected = [store.read(i, source.key(i)).values for i in range(12)]
    order = np.random.default_rng(0).integers(0, 12, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: store.read(i, source.key(i)).values, order))
    assert all((f == expected[i]).all() for i, f in zip(order, found, strict=True))
    assert len(store._readers) <= 2


def test_a_remote_folder_goes_through_local_copies(tmp_path, monkeypatch):
    """gs:// itself needs a network; this takes the same path on local files."""
    monkeypatch.setattr(label_store, "is_remote", lambda path: True)
    source = Photos(5)
    store = make_store(tmp_path / "out", source, shard_size=2)
    found = store.read(3, source.key(3)).values
    monkeypatch.undo()
    assert (found == LabelStore(tmp_path / "out").read(3, source.key(3)).values).all()
    assert not list((tmp_path / "out").glob(".*")), "temporary files are gone"


# Joined to images


def test_records_join_their_images(tmp_path):
    source = Photos(7)
    joined = join.with_labels(source, make_store(tmp_path / "out", source))
    assert len(joined) == 7 and joined.key(4) == source.key(4)
    record = joined[4]
    assert (record["image"] == source[4]["image"]).all()
    assert record["disparity"].shape == (42, 28) != record["image"].shape[:2]
    assert record["valid"].all() and not record["sky"].any() and record["shift_known"] is False


def test_label_and_image_crop_stay_aligned_to_the_pixel(tmp_path):
    """Crops of the label equal the teacher's map of the same crop: a shift by one pixel fails."""
    source = Photos(6)
    joined = join.with_labels(source, make_store(tmp_path / "out", source))
    rng = np.random.default_rng(0)
    flips = 0
    for i in range(6):
        record = joined[i]
        geometry = transforms.draw_geometry(rng, *record["image"].shape[:2], SIZE, patch_size=14)
        flips += geometry.flip
        example = transforms.apply_geometry(record, geometry, SIZE)
        # 16 bits of a range below 1.2.
        np.testing.assert_allclose(example["disparity"], brightness(example["image"]), atol=1e-5)
    assert 0 < flips < 6


def test_images_without_a_label_are_left_out(tmp_path, caplog):
    source = Photos(7)
    store = make_store(tmp_path / "out", source, errors=(0, 4))
    with pytest.raises(LabelError, match="p/4.jpg has no label: torn file"):
        store.read(4, "p/4.jpg")
    joined = join.with_labels(source, store)
    assert [joined.key(i) for i in range(len(joined))] == [f"p/{i}.jpg" for i in (1, 2, 3, 5, 6)]
    assert joined[3]["key"] == "p/5.jpg" and joined[3]["valid"].all()
    assert "2 of 7 images have no label" in caplog.text and "torn file" in caplog.text


def test_another_list_of_images_is_refused(tmp_path):
    store = make_store(tmp_path / "out", Photos(6))
    with pytest.raises(LabelError, match="list of keys differs"):
        join.with_labels(Photos(6, prefix="q"), store)
    with pytest.raises(LabelError, match=r"labels of 6 images.*has 9.*'slice': \[0, 6\]"):
        join.with_labels(Photos(9), store)
    part = Subset(Photos(9), range(6))
    assert len(join.with_labels(part, store)) == 6


class Turned(Photos):
    """The same names, but each picture lies on its side."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        return record | {"image": np.ascontiguousarray(np.rot90(record["image"]))}


def test_a_changed_image_under_the_same_name_is_refused(tmp_path):
    joined = join.with_labels(Turned(6), make_store(tmp_path / "out", Photos(6)))
    with pytest.raises(LabelError, match="41x30, but was 30x41 when it was labelled"):
        joined[0]


def test_shuffled_labels_are_all_labels_and_nobody_keeps_his_own(tmp_path):
    source = Photos(7)
    store = make_store(tmp_path / "out", source, errors=(2,))
    true = join.with_labels(source, store)
    for seed in range(20):
        joined = join.with_labels(source, store, shuffle=seed)
        taken = list(joined.label_of)
        assert sorted(taken) == list(true.indices)
        assert all(a != b for a, b in zip(taken, true.indices, strict=True))
    record = joined[0]
    assert (record["image"] == source[0]["image"]).all()
    other = store.read(taken[0], source.key(taken[0])).values
    assert (record["disparity"] == other).all()
    assert join.with_labels(source, store, shuffle=3).label_of != taken


def spec_of(folder, **more):
    return {"type": "folder", "path": str(folder), **more}


@pytest.fixture
def photo_folder(tmp_path):
    """Images under a folder with a subfolder, and the source of them."""
    for i in range(5):
        path = tmp_path / "photos" / ("sub" if i % 2 else "") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(formats.encode_png(Photos()[i]["image"]))
    return tmp_path / "photos"


def test_a_store_survives_pickling_with_open_readers(tmp_path):
    source = Photos(4)
    store = make_store(tmp_path / "out", source)
    before = store.read(3, source.key(3)).values
    again = pickle.loads(pickle.dumps(store))
    assert (again.read(3, source.key(3)).values == before).all()


def test_spawned_workers_read_the_same_batches(tmp_path, photo_folder):
    make_store(tmp_path / "out", registry.make(spec_of(photo_folder)))
    config = {"unlabelled": spec_of(photo_folder, labels={"path": str(tmp_path / "out")})}
    found = {}
    for workers in (0, 1):
        with pipeline.train_batches(
            config | {"workers": workers},
            labelled_batch=0,
            unlabelled_batch=4,
            size=SIZE,
            seed=3,
            patch_size=14,
        ) as batches:
            found[workers] = [next(batches)["unlabelled"] for _ in range(2)]
    for one, other in zip(found[0], found[1], strict=True):
        assert one.keys() == {"image", "disparity", "valid", "sky", "shift_known"}
        assert all((one[k] == other[k]).all() for k in one)
        np.testing.assert_allclose(one["disparity"], brightness(one["image"]), atol=1e-5)


# Files of other tools


def write_labels(folder, image_folder, suffix=".npy", tail=""):
    source = registry.make(spec_of(image_folder))
    for i in range(len(source)):
        record = source[i]
        values = record["image"].mean(-1)
        path = folder / record["key"].replace(".png", tail + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, values.astype(np.float32))
        elif suffix == ".pfm":
            path.write_bytes(formats.encode_pfm(values.astype(np.float32)))
        else:
            path.write_bytes(formats.encode_png((values * 200).astype(np.uint16)))
    return source


@pytest.mark.parametrize("suffix", [".npy", ".png", ".pfm"])
def test_files_are_found_by_relative_stem(tmp_path, photo_folder, suffix):
    source = write_labels(tmp_path / "labels", photo_folder, suffix)
    joined = attach(source, str(tmp_path / "labels"))
    assert [joined.key(i) for i in range(5)] == [source.key(i) for i in range(5)]
    for i in range(5):
        record = joined[i]
        mean = record["image"].mean(-1)
        expected = (mean * 200).astype(np.uint16) if suffix == ".png" else mean
        np.testing.assert_allclose(record["disparity"], expected, rtol=1e-6)  # float32
        assert record["valid"].all() and record["shift_known"] is False


def test_a_relative_zero_is_a_value_and_nan_and_void_are_not(tmp_path, photo_folder):
    source = write_labels(tmp_path / "labels", photo_folder)
    values = np.load(tmp_path / "labels" / "0.npy")
    values[0, 0], values[0, 1], values[0, 2] = 0, np.nan, -1
    np.save(tmp_path / "labels" / "0.npy", values)
    record = attach(source, {"type": "files", "path": str(tmp_path / "labels")})[0]
    assert record["valid"][0, :4].tolist() == [True, False, True, True]
    assert record["disparity"][0, :3].tolist() == [0, 0, -1]
    record = attach(source, f"{tmp_path}/labels?void=0")[0]
    assert record["valid"][0, :4].tolist() == [False, False, True, True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinity_is_no_label_in_any_precision(tmp_path, photo_folder, dtype):
    source = write_labels(tmp_path / "labels", photo_folder)
    values = np.load(tmp_path / "labels" / "0.npy").astype(dtype)
    values[0, :3] = np.inf, -np.inf, np.nan
    np.save(tmp_path / "labels" / "0.npy", values)
    record = attach(source, str(tmp_path / "labels"))[0]
    assert record["valid"][0, :4].tolist() == [False, False, False, True]
    assert record["valid"][1:].all() and np.isfinite(record["disparity"]).all()


@pytest.mark.parametrize("suffix", [".png", ".npz"])
def test_labels_that_predict_saved_are_compared_with_their_kind(tmp_path, photo_folder, suffix):
    source = registry.make(registry.parse(str(photo_folder)))
    for i in range(len(source)):
        path = (tmp_path / source.key(i)).with_suffix(suffix)
        path.parent.mkdir(exist_ok=True)
        Depth(source[i]["image"].mean(-1), depth_files.RELATIVE).save(path)
    joined = attach(source, {"type": "files", "path": str(tmp_path), "field": "depth"})
    assert joined[0]["valid"].all()
    metres = 1 + source[0]["image"].mean(-1) / 100
    Depth(metres, depth_files.METRIC).save(tmp_path / f"0{suffix}")
    with pytest.raises(formats.FormatError, match="holds metric depth: give kind=depth"):
        joined[0]
    if suffix == ".png":
        in_metres = attach(source, f"{tmp_path}?kind=depth&scale=1000")[0]
        np.testing.assert_allclose(in_metres["depth"], metres, atol=1e-3)
        Depth(metres, depth_files.RELATIVE).save(tmp_path / "0.png", invert=True)
        with pytest.raises(formats.FormatError, match="was saved inverted"):
            joined[0]


def test_eight_bit_labels_are_read_and_colour_maps_are_not(tmp_path, photo_folder):
    source = write_labels(tmp_path / "labels", photo_folder, ".png")
    grey = np.arange(30 * 41).reshape(30, 41).astype(np.uint8)
    file = tmp_path / "labels" / "0.png"
    file.write_bytes(formats.encode_png(grey))
    joined = attach(source, str(tmp_path / "labels"))
    assert (joined[0]["disparity"] == grey).all()
    file.write_bytes(formats.encode_png(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)))
    with pytest.raises(formats.FormatError, match="differing channels"):
        joined[0]


def test_missing_files_are_listed(tmp_path, photo_folder):
    source = write_labels(tmp_path / "labels", photo_folder)
    (tmp_path / "labels" / "sub" / "1.npy").unlink()
    (tmp_path / "labels" / "4.npy").unlink()
    with pytest.raises(LabelError, match=r"no label for 2 of 5 images: 4\.png, sub/1\.png"):
        attach(source, str(tmp_path / "labels"))
    joined = attach(source, {"path": str(tmp_path / "labels"), "allow_missing": True})
    assert [joined.key(i) for i in range(len(joined))] == ["0.png", "2.png", "sub/3.png"]
    np.testing.assert_allclose(joined[2]["disparity"], joined[2]["image"].mean(-1), rtol=1e-6)


def test_labels_beside_the_images_in_one_folder(photo_folder):
    source = write_labels(photo_folder, photo_folder, ".npy")
    assert attach(source, str(photo_folder))[1]["disparity"].shape == (33, 33)


def test_two_files_that_fit_are_an_error_and_a_suffix_decides(tmp_path, photo_folder):
    source = write_labels(tmp_path / "labels", photo_folder, ".npy")
    write_labels(tmp_path / "labels", photo_folder, ".png")
    with pytest.raises(LabelError, match=r"0\.png and 0\.npy both fit the image 0\.png"):
        attach(source, str(tmp_path / "labels"))
    write_labels(tmp_path / "labels", photo_folder, ".npy", tail="_depth")
    assert len(attach(source, f"{tmp_path}/labels?suffix=_depth")) == 5


def test_depth_files_stay_depth(tmp_path, photo_folder):
    source = write_labels(tmp_path / "labels", photo_folder, ".png")
    record = attach(source, f"{tmp_path}/labels?kind=depth&scale=1000")[0]
    raw = (record["image"].mean(-1) * 200).astype(np.uint16)
    valid = raw > 0
    assert (record["valid"] == valid).all() and record["shift_known"] is True
    np.testing.assert_array_equal(record["depth"], raw / np.float32(1000))
    assert "disparity" not in record
    hole = int(raw[raw > 0][0])
    record = attach(source, f"{tmp_path}/labels?kind=depth&scale=1000&void={hole}")[0]
    assert (record["valid"] == valid & (raw != hole)).all()


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"type": "recrods", "path": "x"}, "labels.type='recrods': one of records, files"),
        ({"type": "records"}, "name no path"),
        ({"type": "files", "path": "/nowhere"}, "no folder of labels at /nowhere"),
        ("/nowhere", "no pseudo labels at /nowhere"),
    ],
)
def test_bad_descriptions(spec, message):
    with pytest.raises(LabelError, match=message):
        attach(Photos(), spec)


def test_unknown_fields_are_named(tmp_path):
    source = Photos(3)
    make_store(tmp_path / "out", source)
    with pytest.raises(LabelError, match="no field shuffel"):
        attach(source, f"{tmp_path}/out?shuffel=1")
    assert len(attach(source, f"{tmp_path}/out?shuffle=1")) == 3


def test_the_licence_chain_is_handed_on(tmp_path):
    make_store(tmp_path / "out", Photos(3))
    assert join.licences(tmp_path / "out") == [{"role": "teacher"}]
    assert join.licences(f"{tmp_path}/out?shuffle=1") == [{"role": "teacher"}]
    assert join.licences(tmp_path) == []
