"""tools/prepare_data.py: what goes in comes out, broken files are listed, a kill is no loss."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data import pipeline, prepared_shards, registry
from depth_anything_jax.data.file_formats.formats import FormatError, encode_png
from depth_anything_jax.data.pseudo_labels import join
from depth_anything_jax.data.registry import attach
from depth_anything_jax.data.sources import tfds_source
from depth_anything_jax.data.sources.base import SourceError, is_labelled
from depth_anything_jax.data.sources.tfds_writer import (
    encode,
    features,
    label_encoding,
    mask_fields,
    serialize,
)
from depth_anything_jax.utils import folder_lock
from tests.helpers.prepare_data import command, environment, load_tool, prepare

RNG = np.random.default_rng(0)


def write_pairs(folder, count=7):
    """Pairs in 16 bits with a sky mask each, of which some are broken in their own ways."""
    entries = []
    for i in range(count):
        image = RNG.integers(0, 256, (24, 32, 3), np.uint8)
        suffix = "jpg" if i % 2 else "png"
        cv2.imwrite(str(folder / f"{i}.{suffix}"), image)
        depth = RNG.integers(0, 5000, (24, 32)).astype(np.uint16)
        cv2.imwrite(str(folder / f"{i}_depth.png"), depth)
        cv2.imwrite(str(folder / f"{i}_sky.png"), (depth == 0).astype(np.uint8))
        entries.append(
            {
                "rgb": f"{i}.{suffix}",
                "depth": f"{i}_depth.png",
                "sky": f"{i}_sky.png",
                "fmt": "nyu",
                "dataset": f"set{i % 2}",
                "domain": "indoor",
                "K": [10, 0, 16, 0, 10, 12, 0, 0, 1],
            }
        )
    # Palette images decode differently from reader to reader: they are stored as plain RGB.
    cv2.imwrite(str(folder / "0.png"), RNG.integers(0, 256, (24, 32), np.uint8))
    (folder / "manifest.json").write_text(json.dumps(entries))
    return entries


def assert_same_record(got, expected):
    assert got.keys() == expected.keys()
    for field, value in expected.items():
        # Intrinsics are kept in float32; everything else comes back to the bit.
        if field == "camera":
            np.testing.assert_allclose(got[field], value, rtol=1e-7)
        else:
            np.testing.assert_array_equal(got[field], value, field)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Seven pairs, two of them broken, prepared in shards of two."""
    folder = tmp_path_factory.mktemp("raw")
    write_pairs(folder)
    good = registry.make({"type": "rgbd", "path": str(folder)})
    expected = [good[i] for i in (0, 1, 3, 4, 6)]
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    cv2.imwrite(str(folder / "5_depth.png"), np.zeros((24, 32), np.uint16))
    out = tmp_path_factory.mktemp("out")
    done = prepare(
        "--source", f"rgbd:{folder}", "--out", out, "--name", "mine", "--licence", "CC BY 4.0",
        "--shard_size", 2, "--workers", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"raw": folder, "out": out, "expected": expected, "run": done}


def test_records_come_back_to_the_bit(prepared):
    source = registry.make({"type": "tfds", "path": str(prepared["out"] / "mine")})
    assert len(source) == 5 and source.name == "mine" and is_labelled(source)
    for i, expected in enumerate(prepared["expected"]):
        assert_same_record(source[i], expected)
    again = pickle.loads(pickle.dumps(source))
    assert_same_record(again[4], prepared["expected"][4])
    assert len({source.key(i) for i in range(5)}) == 5
    with pytest.raises(IndexError, match="record 5 of 5 in mine"):
        source[5]


def test_images_alone(prepared):
    source = registry.make(
        {"type": "tfds", "path": str(prepared["out"]), "labelled": False, "split": "train[1:3]"}
    )
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["image"], prepared["expected"][1]["image"])
    assert "depth" not in source[0]


def test_tfds_reads_them_without_us(prepared):
    import tensorflow_datasets as tfds

    data = tfds.data_source("mine", split="train", data_dir=str(prepared["out"]))
    for example, expected in zip(data, prepared["expected"], strict=True):
        np.testing.assert_array_equal(example["image"], expected["image"])
        assert example["depth"].dtype == np.uint16
        depth = example["depth"][..., 0] / np.float32(example["scale"])
        valid = expected["valid"]
        np.testing.assert_array_equal(depth[valid], expected["depth"][valid])
        np.testing.assert_array_equal(example["sky"][..., 0] > 0, expected["sky"])
    assert "tensorflow" not in sys.modules


def test_card_lists_what_was_skipped(prepared):
    card = tfds_source.read_card(prepared["out"] / "mine")
    assert card["records"] == 5 and card["skipped"] == 2 and card["licence"] == "CC BY 4.0"
    assert card["label_encoding"] == "png16" and card["masks"] == ["sky"]
    reasons = {item["key"]: item["error"] for item in card["skipped_files"]}
    assert set(reasons) == {"2.png", "5.jpg"}
    assert "truncated" in reasons["2.png"] and "no valid pixel" in reasons["5.jpg"]
    output = prepared["run"].stdout + prepared["run"].stderr
    assert "5 records in 4 shards" in output and "2 skipped" in output
    assert "skipped 2.png: FormatError" in output and "7/7" in output  # the progress bar


def test_wrong_split_and_feature_are_named(prepared):
    spec = {"type": "tfds", "path": str(prepared["out"])}
    with pytest.raises(SourceError, match=r"no split 'test' \(train\)"):
        registry.make(spec | {"split": "test"})
    with pytest.raises(SourceError, match="no feature 'rgb': .*image"):
        registry.make(spec | {"image": "rgb"})


def test_training_reads_them(prepared):
    cfg = {"labelled": {"type": "tfds", "path": str(prepared["out"] / "mine")}, "threads": 2}
    with pipeline.train_batches(
        cfg, labelled_batch=5, unlabelled_batch=0, size=14, seed=0, patch_size=14
    ) as stream:
        batch = next(stream)["labelled"]
    assert batch["valid"].any((1, 2)).all() and stream.failures == 0


def test_a_complete_data_set_is_left_alone(prepared, capsys):
    tool = load_tool()
    arguments = ["--out", str(prepared["out"]), "--name", "mine", "--source"]
    tool.main([*arguments, f"rgbd:{prepared['raw']}"])
    assert "is already complete: 5 records" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds another data set, made from rgbd:"):
        tool.main([*arguments, f"rgbd:{prepared['raw']}?datasets=set1"])


def test_a_second_start_in_a_folder_in_use_is_refused(prepared):
    arguments = ["--out", str(prepared["out"]), "--name", "mine", "--source"]
    with (
        folder_lock.locked(prepared["out"] / "mine"),
        pytest.raises(SystemExit, match="mine is in use by process"),
    ):
        load_tool().main([*arguments, f"rgbd:{prepared['raw']}"])


def test_a_changed_label_of_a_complete_data_set_is_noticed(prepared, capsys):
    tool, label = load_tool(), prepared["raw"] / "3_depth.png"
    arguments = ["--out", str(prepared["out"]), "--name", "mine", "--source"]
    before = label.read_bytes()
    try:
        for changed in (before[:-1] + b"x", None):  # of the same size, and gone
            label.write_bytes(changed) if changed else label.unlink()
            with pytest.raises(SystemExit, match="is complete, but files of rgbd:.* have changed"):
                tool.main([*arguments, f"rgbd:{prepared['raw']}"])
    finally:
        label.write_bytes(before)
    tool.main([*arguments, f"rgbd:{prepared['raw']}"])  # written anew, with the same bytes
    assert "is already complete" in capsys.readouterr().out


def test_a_shard_whose_files_have_changed_is_written_again(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_pairs(raw)
    source = registry.make({"type": "rgbd", "path": str(raw)})
    plan = prepared_shards.make_plan(source, "mine", f"rgbd:{raw}", 2)
    folder = tmp_path / "out"
    assert prepared_shards.start(plan, folder, source) == [0, 1, 2, 3]
    writer = prepared_shards.shard_writer(plan, folder)
    for shard in range(3):
        digest = prepared_shards.files_digest(source, writer.range(shard))
        note = {"begun": time.time_ns() + 10**9, "files": digest, "size": 4}
        writer.file(shard).write_bytes(b"some")
        prepared_shards.write_json(folder / prepared_shards.PROGRESS / f"{shard:05d}.json", note)
    assert prepared_shards.start(plan, folder, source) == [3]
    for file in ("0_depth.png", "2_sky.png", "5.jpg"):
        os.utime(raw / file, ns=(2 * time.time_ns(),) * 2)
    assert prepared_shards.start(plan, folder, source) == [3]  # touched, with the same bytes
    for file in ("2_sky.png", "5.jpg"):
        (raw / file).write_bytes(b"other")
        os.utime(raw / file, ns=(2 * time.time_ns(),) * 2)
    assert prepared_shards.start(plan, folder, source) == [1, 2, 3]
    assert "files of shard 1 have changed since it was written" in capsys.readouterr().out
    old = {"records": 2, "bytes": 9, "skipped": []}  # a note from before files were digested
    prepared_shards.write_json(folder / prepared_shards.PROGRESS / "00002.json", old)
    assert prepared_shards.start(plan, folder, source) == [1, 3]
    capsys.readouterr()
    writer.file(0).write_bytes(b"so")  # torn, and gone
    writer.file(2).unlink()
    assert prepared_shards.start(plan, folder, source) == [0, 1, 2, 3]
    told = capsys.readouterr().out
    assert "shard 0 is not as it was written" in told and "shard 2 is not as it was" in told


@pytest.mark.parametrize("old", [True, False])
def test_a_card_says_what_the_files_were_where_every_note_does(tmp_path, old):
    """A preparation that an earlier version began has notes without."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write_pairs(raw, count=4)
    source = registry.make({"type": "rgbd", "path": str(raw)})
    plan = prepared_shards.make_plan(source, "mine", f"rgbd:{raw}", 2)
    folder = tmp_path / "out"
    prepared_shards.start(plan, folder, source)
    for shard, range_ in enumerate((range(2), range(2, 4))):
        note = {"begun": 0, "records": 2, "bytes": 9, "skipped": []}
        if shard or not old:
            note["files"] = prepared_shards.files_digest(source, range_)
        prepared_shards.write_json(folder / prepared_shards.PROGRESS / f"{shard:05d}.json", note)
        (folder / f"mine-train.array_record-{shard:05d}-of-00002").touch()
    assert ("files" in prepared_shards.finish(plan, folder, "MIT", source)) is not old
    for file in raw.iterdir():
        os.utime(file, ns=(2 * time.time_ns(),) * 2)
    assert prepared_shards.check_complete(plan, folder, source)["records"] == 4


def test_records_have_the_same_bytes_in_every_process(prepared):
    """TFDS serialises a record's fields in an order that each process draws."""
    source = registry.make({"type": "rgbd", "path": str(prepared["raw"])})
    example = encode(source, 0, encoding="png16", masks=["sky"])
    made = features(True, "png16", ["sky"])
    data = serialize(made, example)
    found = sorted(example, key=lambda name: data.find(b"\n" + bytes([len(name)]) + name.encode()))
    assert found == sorted(example)
    assert serialize(made, dict(reversed(example.items()))) == data
    assert made.deserialize_example_np(data)["key"] == b"0.png"


def test_bad_command_lines(tmp_path, capsys):
    tool = load_tool()
    arguments = ["--out", str(tmp_path), "--name", "x", "--source"]
    with pytest.raises(SystemExit, match="no folder .*nowhere"):
        tool.main([*arguments, f"folder:{tmp_path}/nowhere"])
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path), "--name", "My-Set", "--source", "folder:x"])
    assert "lower case letters, digits and _" in capsys.readouterr().err
    (tmp_path / "x/1.0.0").mkdir(parents=True)
    (tmp_path / "x/1.0.0/other").touch()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(SystemExit, match="is not empty"):
        tool.main([*arguments, f"folder:{tmp_path}"])


def test_unlike_labels_are_kept_in_float32(shared, tmp_path):
    """PFM, 8-bit disparity, rotated bits: one set of floats that gives the same records."""
    raw = shared / "data" / "labelled"
    wanted = ["middlebury", "sunrgbd", "icl_nuim"]
    done = prepare(
        "--source", f"rgbd:{raw}?datasets={','.join(wanted)}", "--out", tmp_path, "--name", "mixed"
    )
    assert done.returncode == 0, done.stderr
    assert tfds_source.read_card(tmp_path)["label_encoding"] == "float32"
    source = registry.make({"type": "tfds", "path": str(tmp_path)})
    original = registry.make({"type": "rgbd", "path": str(raw), "datasets": wanted})
    assert len(source) == len(original) == 9
    for i in range(9):
        assert_same_record(source[i], original[i])


def test_a_killed_preparation_continues(tmp_path):
    """SIGKILL in the middle: finished shards stay, the rest is written, nothing twice."""
    raw = tmp_path / "raw"
    raw.mkdir()
    ok, encoded = cv2.imencode(".jpg", RNG.integers(0, 256, (480, 640, 3), np.uint8))
    assert ok
    for i in range(240):
        (raw / f"{i:03d}.jpg").write_bytes(encoded.tobytes())
    out = tmp_path / "out"
    arguments = ["--source", f"folder:{raw}", "--out", out, "--name", "many", "--shard_size", 8]
    running = subprocess.Popen(
        command(*arguments, "--workers", 1), env=environment(), stderr=subprocess.DEVNULL
    )
    folder = out / "many" / "1.0.0"
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".progress/0*.json"))) < 3:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(1.5)  # an orphaned worker notices within half a second
    notes = sorted(folder.glob(".progress/0*.json"))
    assert 3 <= len(notes) < 30
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("many-*.array_record-*")}
    assert len(before) in (len(notes), len(notes) + 1)  # the note comes after its shard

    tool = load_tool()
    with pytest.raises(
        SystemExit, match="begun with other settings: shard_size: 8 there, 9 now; shards: 30"
    ):
        tool.main([*map(str, arguments[:-1]), "9"])
    with pytest.raises(SourceError, match="has not finished"):
        registry.make({"type": "tfds", "path": str(out / "many")})

    with pytest.raises(SystemExit):  # would be written to a folder called "gs:"
        tool.main(["--source", f"folder:{raw}", "--out", "gs://bucket/data", "--name", "many"])
    again = prepare(*arguments, "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert f"continuing: {len(notes)} of 30 shards are there" in again.stdout
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("many-*.array_record-*")}
    kept = [name for name in before if after[name] == before[name]]
    assert len(after) == 30 and len(kept) == len(notes)
    assert not (folder / ".progress").exists()
    source = registry.make({"type": "tfds", "path": str(out / "many")})
    assert [source[i]["key"] for i in range(240)] == [f"{i:03d}.jpg" for i in range(240)]


def test_sky_that_the_depth_tells_is_stored(prepared):
    spec = {"type": "rgbd", "path": str(prepared["raw"]), "exclude": ["2.png", "5.jpg"]}
    plain, far = registry.make(spec), registry.make(spec | {"sky_above": 4.0})
    assert label_encoding(plain) == "png16"
    assert label_encoding(far) == "float32"  # 16 bits as they are would lose the rule
    assert mask_fields(far) == ["sky"]
    example = encode(far, 1, encoding="float32", masks=["sky"])
    sky = cv2.imdecode(np.frombuffer(example["sky"], np.uint8), cv2.IMREAD_UNCHANGED) > 0
    np.testing.assert_array_equal(sky, far[1]["sky"])
    depth = cv2.imread(str(prepared["raw"] / "1_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sky, (depth == 0) | (depth > 4000))
    assert not example["depth"][sky].any()


def write_rooms(tmp_path, image: bytes, depth):
    """A data set of one record, as any TFDS builder may write it."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    kinds = tfds.features
    features = kinds.FeaturesDict(
        {
            "rgb": kinds.Image(shape=(None, None, 3)),
            "z": kinds.Tensor(shape=depth.shape, dtype=depth.dtype, encoding="zlib"),
        }
    )
    folder = tmp_path / "rooms" / "2.1.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(
        str(folder / "rooms-val.array_record-00000-of-00001"), "group_size:1"
    )
    writer.write(features.serialize_example({"rgb": image, "z": depth}))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="rooms", split="val", filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name="val", shard_lengths=[1], num_bytes=100, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[split], check_data=False
    )
    return {"type": "tfds", "split": "val", "image": "rgb", "depth": "z"}


def test_other_peoples_tfds_data_sets(tmp_path):
    """A builder's features, no key, scale or kind: the source's description says what they are."""
    image = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    depth = RNG.uniform(1, 9, (8, 10)).astype(np.float16)
    fields = write_rooms(tmp_path, encode_png(image), depth) | {"scale": 2.0}
    by_path = registry.make(fields | {"path": str(tmp_path / "rooms")})
    by_name = registry.make(fields | {"dataset": "rooms", "data_dir": str(tmp_path)})
    for source in (by_path, by_name):
        record = source[0]
        assert source.name == "rooms" and record["key"] == "val:0" and record["shift_known"]
        np.testing.assert_array_equal(record["image"], image)
        np.testing.assert_array_equal(record["depth"], depth / np.float32(2))
    images = registry.make(fields | {"path": str(tmp_path), "depth": "none"})
    assert not is_labelled(images) and "depth" not in images[0]


def test_whole_numbers_of_depth_in_other_peoples_sets_need_a_scale(tmp_path):
    depth = RNG.integers(1, 9000, (8, 10)).astype(np.uint16)
    fields = write_rooms(tmp_path, encode_png(np.zeros((8, 10, 3), np.uint8)), depth)
    fields["path"] = str(tmp_path)
    with pytest.raises(SourceError, match="val:0: the feature 'z' holds uint16.*needs 'scale'"):
        registry.make(fields)[0]
    np.testing.assert_array_equal(registry.make(fields | {"scale": 2})[0]["depth"], depth / 2)
    record = registry.make(fields | {"kind": "disparity", "invalid": int(depth[0, 0])})[0]
    np.testing.assert_array_equal(record["valid"], depth != depth[0, 0])
    np.testing.assert_array_equal(record["disparity"], np.where(depth != depth[0, 0], depth, 0))


def test_other_peoples_labels_beside_an_exif_orientation_are_in_doubt(tmp_path):
    depth = RNG.uniform(1, 9, (8, 10)).astype(np.float32)
    file, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 3
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(file, "JPEG", exif=tags)
    fields = write_rooms(tmp_path, file.getvalue(), depth) | {"path": str(tmp_path)}
    with pytest.raises(FormatError, match="val:0: the image has the EXIF orientation 3"):
        registry.make(fields)[0]
    turned = registry.make(fields | {"label_orientation": "stored"})[0]
    np.testing.assert_array_equal(turned["depth"], depth[::-1, ::-1])
    upright = registry.make(fields | {"label_orientation": "upright"})[0]
    np.testing.assert_array_equal(upright["depth"], depth)


def test_label_files_do_not_join_packed_images_and_the_error_says_what_does(prepared, tmp_path):
    source = registry.make({"type": "tfds", "path": str(prepared["out"] / "mine"), "slice": [1, 4]})
    np.save(tmp_path / "0.npy", np.ones((2, 2), np.float32))
    with pytest.raises(join.LabelError, match="found by their images' file names.*'folder:"):
        attach(source, {"path": str(tmp_path), "type": "files"})
