"""Training sets through tools/prepare_data.py and the training pipeline: same records, counts."""

import numpy as np
import pytest

from depth_anything_jax.data import inspection, prepared_shards, registry
from depth_anything_jax.data.examples import DataError, Examples
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import tfds_source
from tests.helpers import training_set_files as files
from tests.helpers.benchmark_files import write, write_image
from tests.helpers.prepare_data import load_tool, prepare

SCENE = "5bfe5ae0fe0ea555e6a969ca"
K = np.array([[10.0, 0, 4], [0, 11, 3], [0, 0, 1]])
RNG = np.random.default_rng(0)


def blended(root, count=6, empty=(1, 4), cut=(5,)):
    for number in range(count):
        name = f"{number:08d}"
        depth = RNG.uniform(0.5, 3, (14, 14)).astype(np.float32) * (number not in empty)
        write_image(root / f"{SCENE}/blended_images/{name}.jpg", 14, 14)
        write_image(root / f"{SCENE}/blended_images/{name}_masked.jpg", 14, 14)
        label = root / f"{SCENE}/rendered_depth_maps/{name}.pfm"
        write(label, formats.encode_pfm(depth))
        write(root / f"{SCENE}/cams/{name}_cam.txt", files.cam_txt(K, 0.4))
        if number in cut:
            files.cut(label)
    return root


def test_prepared_records_are_those_of_the_source(tmp_path):
    root = blended(tmp_path / "raw")
    done = prepare("blendedmvs", "--source", root, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "left out: 6 masked copy of another image" in done.stdout
    card = tfds_source.read_card(tmp_path / "out/blendedmvs")
    assert card["left_out"] == {"empty depth map": 2, "masked copy of another image": 6}
    assert (card["records"], card["skipped"], card["licence"]) == (3, 1, "CC BY 4.0")
    assert card["label_encoding"] == "float16" and card["masks"] == []
    assert card["source"] == f"blendedmvs:{root}"
    source = registry.make({"type": "blendedmvs", "path": str(root)})
    got = registry.make({"type": "tfds", "path": str(tmp_path / "out/blendedmvs")})
    for index, number in enumerate((0, 2, 3)):
        ours, theirs = got[index], source[number]
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["valid"], theirs["valid"])
        np.testing.assert_allclose(ours["disparity"], theirs["disparity"], rtol=2**-11)
        assert ours["camera"] == theirs["camera"] and ours["shift_known"]
    told = inspection.line({"labelled": [got]})
    assert "labelled blendedmvs, 3 records (the papers count 115 thousand), " in told
    again = prepare("blendedmvs", "--source", root, "--out", tmp_path / "out")
    assert "already complete: 3 records" in again.stdout


def test_what_is_left_out_is_no_failure(tmp_path):
    """Fewer than NEIGHBOURS failures end training; records that are left out are none."""
    root = blended(tmp_path, count=24, empty=range(1, 22), cut=(22,))
    source = registry.make({"type": "blendedmvs", "path": str(root)})
    reader = Examples("labelled", [source], None, size=14, patch_size=14, seed=0, labels=True)
    failed = set()
    for index in range(24):
        example, failures, _ = reader.read(index)
        assert example["disparity"].max() > 0
        failed |= {f.key for f in failures}
    assert failed == {f"{SCENE}/blended_images/00000022.jpg"}
    found = inspection.inspect(source, most=0)
    assert len(found.looks) == 2 and len(found.failures) == 1 and found.seen == 3
    assert found.left_out == {"masked copy of another image": 24, "empty depth map": 21}
    blended(tmp_path / "none", count=2, empty=(0, 1), cut=())
    source = registry.make({"type": "blendedmvs", "path": str(tmp_path / "none")})
    reader = Examples("labelled", [source], None, size=14, patch_size=14, seed=0, labels=True)
    with pytest.raises(DataError, match="blendedmvs leaves out all of its 2 records"):
        reader.read(0)


def test_names_and_licences_come_from_the_table():
    options = load_tool().parse_options(["sa1b", "--source", "SA?exclude=a*", "--out", "out"])
    assert (options.source, options.name) == ("sa1b:SA?exclude=a*", "sa1b")
    assert options.licence == "SA-1B Dataset Research License"
    given = ["sa1b", "--source", "sa1b:SA", "--out", "o", "--name", "some", "--licence", "mine"]
    options = load_tool().parse_options(given)
    assert (options.source, options.name, options.licence) == ("sa1b:SA", "some", "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sa2b", "--source", "a", "--out", "b"], "invalid choice: 'sa2b'"),
        (["--source", "a", "--out", "b"], "--name is needed without SET"),
    ],
)
def test_wrong_commands(arguments, message, capsys):
    with pytest.raises(SystemExit):
        load_tool().parse_options(arguments)
    assert message in capsys.readouterr().err


def test_tfds_alone_reads_webp_and_float16(tmp_path):
    """Images of LSUN are WebP, labels of most sets float16: other programs read them too."""
    import tensorflow_datasets as tfds

    lmdb = pytest.importorskip("lmdb")
    import cv2

    pixels = RNG.integers(0, 256, (24, 32, 3), np.uint8)
    data = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    folder = tmp_path / "bar_train_lmdb"
    with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as t:
        t.put(b"0" * 40, data)
    source = registry.make({"type": "lsun", "path": str(tmp_path)})
    plan = prepared_shards.make_plan(source, "bars", f"lsun:{tmp_path}", 1000)
    out = tmp_path / "out/bars/1.0.0"
    (out / prepared_shards.PROGRESS).mkdir(parents=True)
    fields = prepared_shards.features(False, None, [])
    note = {"begun": 0, "records": 1, "bytes": 1, "skipped": [], "left_out": {}, "files": ""}
    example = prepared_shards.encode(source, 0, encoding=None, masks=[])
    prepared_shards.shard_writer(plan, out).write(0, [prepared_shards.serialize(fields, example)])
    prepared_shards.write_json(out / prepared_shards.PROGRESS / "00000.json", note)
    assert "left_out" not in prepared_shards.finish(plan, out, "research", source)
    (example,) = tfds.data_source("bars", split="train", data_dir=str(tmp_path / "out"))
    np.testing.assert_array_equal(example["image"], formats.decode_image(data))
    (example,) = (registry.make({"type": "tfds", "path": str(out)})[0],)
    np.testing.assert_array_equal(example["image"], formats.decode_image(data))
