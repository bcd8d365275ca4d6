"""Sources: keys, labels, selections, layouts that are not there."""

import json
import pickle

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import manifest, tfds_writer
from depth_anything_jax.data.sources.base import (
    Source,
    SourceError,
    disparity_of,
    is_labelled,
    kind_of,
)
from depth_anything_jax.data.sources.manifest import ManifestError

RNG = np.random.default_rng(0)


def write_image(path, height=12, width=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return pixels[..., ::-1]


# --- folders -----------------------------------------------------------------------------------


def test_folder_is_recursive_and_sorted(tmp_path):
    names = ["b/2.png", "b/10.png", "a.PNG", "c/d/e.png", ".hidden/x.png", "b/.y.png"]
    pixels = {name: write_image(tmp_path / name) for name in names}
    (tmp_path / "notes.txt").write_text("no image")
    source = registry.make({"type": "folder", "path": str(tmp_path)})
    keys = [source.key(i) for i in range(len(source))]
    assert keys == ["a.PNG", "b/10.png", "b/2.png", "c/d/e.png"]
    for i, key in enumerate(keys):
        record = source[i]
        assert set(record) == {"key", "image"} and record["key"] == key
        np.testing.assert_array_equal(record["image"], pixels[key])
    assert not is_labelled(source)
    assert isinstance(source, Source)
    excluded = registry.make({"type": "folder", "path": str(tmp_path), "exclude": ["b/*"]})
    assert [excluded.key(i) for i in range(len(excluded))] == ["a.PNG", "c/d/e.png"]


def test_slices(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"{i}.png")
    spec = {"type": "folder", "path": str(tmp_path)}
    part = registry.make(spec | {"slice": [1, 3]})
    assert [part.key(i) for i in range(len(part))] == ["1.png", "2.png"]
    assert part[1]["key"] == "2.png"
    assert len(registry.make(spec | {"slice": [3, None]})) == 2
    with pytest.raises(SourceError, match=r"slice \[7, 9\] of the 5"):
        registry.make(spec | {"slice": [7, 9]})


def test_wrong_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(SourceError, match="no folder .*nowhere"):
        registry.make({"type": "folder", "path": str(tmp_path / "nowhere")})
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SourceError, match=r"no image below it \(1 other files\).*\.jpg"):
        registry.make({"type": "folder", "path": str(tmp_path)})


def test_descriptions_are_checked(tmp_path):
    write_image(tmp_path / "a.png")
    with pytest.raises(SourceError, match="unknown source type 'fodler'.*folder"):
        registry.make({"type": "fodler"})
    with pytest.raises(SourceError, match="no field 'exlude'; did you mean 'exclude'"):
        registry.make({"type": "folder", "path": str(tmp_path), "exlude": []})
    with pytest.raises(SourceError, match="needs the field 'path'"):
        registry.make({"type": "folder"})
    with pytest.raises(SourceError, match="'datsets'; did you mean 'datasets'"):
        registry.make({"type": "rgbd", "path": str(tmp_path), "datsets": ["nyu"]})


# --- RGB-D -------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Six pairs: two data sets, three scenes, every kind of label."""
    entries = []

    def add(name, dataset, label, **fields):
        write_image(tmp_path / f"{name}.png")
        path = tmp_path / label
        path.parent.mkdir(parents=True, exist_ok=True)
        values = RNG.uniform(1, 9, (12, 16)).astype(np.float32)
        values[0, :4] = 0
        if label.endswith(".npy"):
            np.save(path, values)
        elif label.endswith(".pfm"):
            path.write_bytes(formats.encode_pfm(values))
        else:
            cv2.imwrite(str(path), np.round(values * 1000).astype(np.uint16))
        entries.append({"rgb": f"{name}.png", "depth": label, "dataset": dataset, **fields})

    add("one/a", "rooms", "one/a.npy", scene="hall", domain="indoor", split="train")
    add("one/b", "rooms", "one/b_d.png", scale=1000, K=[[1, 0, 2], [0, 3, 4], [0, 0, 1]])
    add("two/c", "rooms", "two/c_d.png", fmt="nyu", K=[9, 0, 2, 0, 4, 5, 0, 0, 1], scene="hall")
    add("two/d", "stereo", "two/d.pfm", kind="disparity")
    add("two/e", "stereo", "two/e.pfm", kind="disparity", offset=2.5)
    add("two/f", "stereo", "two/f.pfm", kind="disparity", shift_known=True, domain="outdoor")
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return tmp_path


def keys(source):
    return [source.key(i) for i in range(len(source))]


def test_manifest_gives_labels_of_their_kind(pairs):
    source = registry.make({"type": "rgbd", "path": str(pairs)})
    assert len(source) == 6 and is_labelled(source)
    first, last = source[0], source[5]
    depth = np.load(pairs / "one/a.npy")
    assert first["valid"].sum() == 12 * 16 - 4
    measured = first["valid"]
    np.testing.assert_array_equal(first["depth"], depth)
    np.testing.assert_array_equal(disparity_of(first)[measured], 1 / depth[measured])
    np.testing.assert_array_equal(disparity_of(first)[~measured], 0)
    assert first["depth"].dtype == disparity_of(first).dtype == np.float32
    assert not first["sky"].any() and first["domain"] == "indoor"
    assert [kind_of(source[i]) for i in range(6)] == ["depth"] * 3 + ["disparity"] * 3
    disparity = formats.read_label(pairs / "two/f.pfm")
    np.testing.assert_array_equal(last["disparity"], disparity)
    np.testing.assert_array_equal(last["valid"], disparity > 0)
    # Depth has a true infinity; disparity only where somebody said so.
    assert [source[i]["shift_known"] for i in range(6)] == [True] * 3 + [False, True, True]
    np.testing.assert_array_equal(source[4]["disparity"].min(), 0)
    assert source[4]["disparity"][source[4]["valid"]].min() >= 3.5
    np.testing.assert_array_equal(source[1]["camera"], [1, 3, 2, 4])
    np.testing.assert_array_equal(source[2]["camera"], [9, 4, 2, 5])
    assert "camera" not in source[0]


def test_manifest_selections(pairs):
    def make(**fields):
        return keys(registry.make({"type": "rgbd", "path": str(pairs / "manifest.json"), **fields}))

    assert make(datasets=["stereo"]) == ["two/d.png", "two/e.png", "two/f.png"]
    assert make(datasets=["r*"], exclude=["one/b.png"]) == ["one/a.png", "two/c.png"]
    assert make(exclude=["hall", "stereo"]) == ["one/b.png"]  # scenes and data sets alike
    assert make(scenes=["two"]) == ["two/d.png", "two/e.png", "two/f.png"]  # by default the folder
    assert make(splits=["train"]) == ["one/a.png"]
    assert make(domains=["outdoor"]) == ["two/f.png"]
    with pytest.raises(ManifestError, match="no dataset matches 'room'; did you mean 'rooms'"):
        make(datasets=["room"])
    with pytest.raises(ManifestError, match="image to exclude matches 'stero'; did you"):
        make(exclude=["stero"])
    with pytest.raises(ManifestError, match="none of its 6 entries is left"):
        make(datasets=["stereo"], splits=["train"])


def test_images_alone_need_no_depth(pairs):
    (pairs / "list.txt").write_text("one/a.png\ntwo/c.png\n")
    source = registry.make({"type": "rgbd", "path": str(pairs / "list.txt"), "labelled": False})
    assert kind_of(source[1]) is None and not is_labelled(source)
    with pytest.raises(SourceError, match="2 of 2 entries have no 'depth'.*one/a.png"):
        registry.make({"type": "rgbd", "path": str(pairs / "list.txt")})


def test_lists_take_their_conventions_from_the_source(pairs):
    (pairs / "list.txt").write_text("one/b.png one/b_d.png\ntwo/c.png two/c_d.png\n")
    (pairs / "list.jsonl").write_text('{"rgb": "one/b.png", "depth": "one/b_d.png"}\n')
    expected = registry.make({"type": "rgbd", "path": str(pairs)})
    for name in ("list.txt", "list.jsonl"):
        source = registry.make({"type": "rgbd", "path": str(pairs / name), "fmt": "nyu"})
        np.testing.assert_array_equal(source[0]["depth"], expected[1]["depth"])


def test_broken_manifests_are_named(tmp_path):
    def load(text, name="m.json"):
        (tmp_path / name).write_text(text)
        return registry.make({"type": "rgbd", "path": str(tmp_path / name)})

    with pytest.raises(ManifestError, match=r"no manifest at .*manifest\.json"):
        registry.make({"type": "rgbd", "path": str(tmp_path)})
    with pytest.raises(ManifestError, match="m.json: not JSON"):
        load("{")
    with pytest.raises(ManifestError, match="non-empty list"):
        load("{}")
    with pytest.raises(ManifestError, match=r"m.json, entry 0: an entry is an object with 'rgb'"):
        load('[{"image": "a.png"}]')
    with pytest.raises(ManifestError, match="entry 1: kind must be depth or disparity, got 'dept'"):
        load('[{"rgb": "a", "depth": "b"}, {"rgb": "a", "kind": "dept"}]')
    with pytest.raises(ManifestError, match="entry 0: unknown label format 'exr'"):
        load('[{"rgb": "a", "fmt": "exr"}]')
    with pytest.raises(ManifestError, match="K has 4 numbers"):
        load('[{"rgb": "a", "K": [1, 2, 3, 4]}]')


def test_masks(pairs):
    sky = np.zeros((12, 16), np.uint8)
    sky[0, :4] = 255
    cv2.imwrite(str(pairs / "sky.png"), sky)
    valid = np.full((12, 16), 255, np.uint8)
    valid[5] = 0
    cv2.imwrite(str(pairs / "valid.png"), valid)
    entry = {"rgb": "two/d.png", "depth": "two/d.pfm", "sky": "sky.png", "valid": "valid.png"}
    other = entry | {"rgb": "one/a.png", "kind": "disparity"}
    (pairs / "m.json").write_text(json.dumps([entry, other]))
    source = registry.make({"type": "rgbd", "path": str(pairs / "m.json")})
    values = formats.read_label(pairs / "two/d.pfm")
    np.testing.assert_array_equal(source[0]["sky"], sky > 0)
    np.testing.assert_array_equal(source[0]["valid"], (values > 0) & (valid > 0))
    # A mask says where disparity holds, so its zeros are far points, not holes.
    np.testing.assert_array_equal(source[1]["valid"], valid > 0)
    cv2.imwrite(str(pairs / "sky.png"), sky[:6])
    with pytest.raises(formats.FormatError, match=r"sky.png: sky mask is \(6, 16\)"):
        source[0]


def test_sky_by_depth(pairs):
    values = np.full((12, 16), 5, np.float32)
    values[:3] = 10000
    np.save(pairs / "far.npy", values)
    (pairs / "m.json").write_text(json.dumps([{"rgb": "one/a.png", "depth": "far.npy"}]))
    spec = {"type": "rgbd", "path": str(pairs / "m.json")}
    record = registry.make(spec | {"sky_above": 1000})[0]
    np.testing.assert_array_equal(record["sky"], values > 1000)
    np.testing.assert_array_equal(record["valid"], values < 1000)
    assert not record["depth"][:3].any() and record["depth"][3:].all()
    assert not registry.make(spec)[0]["sky"].any()


def test_depth_whose_inverse_is_not_finite_is_invalid(pairs):
    """Renderers leave 1e-40 behind; its disparity is infinite, and sums of 1e38 are."""

    def make(row):
        rows = [row | {"rgb": "one/a.png"}, row | {"rgb": "one/b.png", "kind": "disparity"}]
        (pairs / "m.json").write_text(json.dumps(rows))
        return registry.make({"type": "rgbd", "path": str(pairs / "m.json")})

    for suffix in ("npy", "pfm"):
        values = np.full((12, 16), 5, np.float32)
        values[:2], values[2], values[3], values[4] = 1e-40, 1e-35, 1e35, np.nan
        np.save(pairs / "d.npy", values)
        (pairs / "d.pfm").write_bytes(formats.encode_pfm(values))
        source = make({"depth": f"d.{suffix}"})
        np.testing.assert_array_equal(source[0]["valid"], values == 5)
        np.testing.assert_array_equal(
            disparity_of(source[0]), np.where(values == 5, 0.2, 0).astype(np.float32)
        )
        with np.errstate(over="raise"):
            assert source[1]["disparity"].sum(dtype=np.float32) < 1e30
    # float64 beyond float32, before the scale and after it
    for values, scale in ((1e300, 1), (1e30, 1e-20)):
        np.save(pairs / "d.npy", np.full((12, 16), values))
        source = make({"depth": "d.npy", "scale": scale})
        assert not source[0]["valid"].any() and not source[1]["valid"].any()


def test_sentinels_and_limits_of_entries_and_sources(pairs):
    raw = np.full((12, 16), 5000, np.uint16)
    raw[:3], raw[3], raw[4] = 65535, 100, 30000
    cv2.imwrite(str(pairs / "a_d.png"), raw)
    fields = {"invalid": 65535, "min_depth": 0.5, "max_depth": 20}
    row = {"rgb": "one/a.png", "depth": "a_d.png", "fmt": "nyu"}

    def make(rows, query=""):
        (pairs / "m.json").write_text(json.dumps(rows))
        return registry.make(registry.parse(f"rgbd:{pairs}/m.json{query}"))

    own = make([row | fields])
    shared = make([row], "?invalid=65535&min_depth=0.5&max_depth=20")
    entry = manifest.parse(row | fields, "here")
    assert fields | {"invalid": [65535]} == {k: manifest.to_fields(entry)[k] for k in fields}
    for entries in (own.entries, shared.entries):
        assert entries == [entry]
    record = shared[0]
    np.testing.assert_array_equal(record["depth"], np.where(raw == 5000, 5, 0))
    np.testing.assert_array_equal(record["valid"], raw == 5000)
    assert not record["sky"].any()
    # Holes of disparity stay holes where a mask lets zeros in.
    cv2.imwrite(str(pairs / "all.png"), np.ones((12, 16), np.uint8))
    raw[5] = 0
    cv2.imwrite(str(pairs / "a_d.png"), raw)
    far = {"kind": "disparity", "valid": "all.png", "invalid": [65535, 100]}
    source = make([row | far])
    np.testing.assert_array_equal(source[0]["valid"], ~np.isin(raw, (65535, 100)))
    packed = tfds_writer.encode(source, 0, encoding="png16", masks=["valid"])
    kept = formats.decode_raw(packed["depth"], "d", bits=16)
    np.testing.assert_array_equal(kept, np.where(source[0]["valid"], raw, 0))
    for name in ("min_depth", "sky_above"):
        with pytest.raises(ManifestError, match=f"entry 0: {name} is depth in metres"):
            make([row | {"kind": "disparity", name: 3}])
    with pytest.raises(ManifestError, match="entry 0: invalid must be a number or a list"):
        make([row | {"invalid": "255"}])


def test_another_view_is_refused(pairs):
    write_image(pairs / "one/a.png", 16, 12)
    source = registry.make({"type": "rgbd", "path": str(pairs)})
    with pytest.raises(formats.FormatError, match="one/a.png: the image is 16x12.*12x16.*EXIF"):
        source[0]
    write_image(pairs / "one/a.png", 24, 32)  # another resolution of the same view is fine
    assert source[0]["image"].shape == (24, 32, 3)


def test_paired_folders(tmp_path):
    for name in ("x/1", "x/2"):
        write_image(tmp_path / "rgb" / f"{name}.jpg")
    (tmp_path / "gt/x").mkdir(parents=True)
    for name in ("1.png", "2_depth.png"):
        cv2.imwrite(str(tmp_path / "gt/x" / name), np.full((12, 16), 512, np.uint16))
    spec = {
        "type": "pairs",
        "images": str(tmp_path / "rgb"),
        "depths": str(tmp_path / "gt"),
        "fmt": "kitti",
    }
    source = registry.make(spec)
    assert keys(source) == ["x/1.jpg", "x/2.jpg"]
    np.testing.assert_array_equal(source[1]["depth"], np.full((12, 16), 2))
    (tmp_path / "gt/x/1.png").unlink()
    with pytest.raises(ManifestError, match="1 of 2 images.*x/1.jpg"):
        registry.make(spec)
    with pytest.raises(ManifestError, match="no folder .*nowhere.*'depths'"):
        registry.make(spec | {"depths": str(tmp_path / "nowhere")})


def test_labels_of_unknown_unit_are_refused_before_they_are_read(tmp_path):
    write_image(tmp_path / "rgb/a.png")
    (tmp_path / "d").mkdir()
    spec = {"type": "pairs", "images": str(tmp_path / "rgb"), "depths": str(tmp_path / "d")}
    cv2.imwrite(str(tmp_path / "d/a.png"), np.full((12, 16), 200, np.uint8))
    for fields in ({"fmt": "png8"}, {"fmt": "png8", "kind": "depth"}, {}):
        with pytest.raises(formats.FormatError, match=r"d/a\.png: .* needs 'scale'"):
            registry.make(spec | fields)
    assert (registry.make(spec | {"fmt": "png8", "kind": "disparity"})[0]["disparity"] == 200).all()
    assert (registry.make(spec | {"fmt": "png8", "scale": 50})[0]["depth"] == 4).all()
    assert len(registry.make(spec | {"fmt": "png8", "labelled": False})) == 1


def test_sources_can_be_sent_to_workers(pairs):
    for spec in ({"type": "folder"}, {"type": "rgbd", "datasets": ["rooms"]}):
        source = registry.make({"path": str(pairs), **spec})
        again = pickle.loads(pickle.dumps(source))
        assert keys(again) == keys(source)
        np.testing.assert_array_equal(again[0]["image"], source[0]["image"])


def test_missing_tfds_data_set_says_where_it_looked(tmp_path):
    with pytest.raises(SourceError, match="no data set at .*dataset_info.json.*prepare_data"):
        registry.make({"type": "tfds", "path": str(tmp_path / "sa1b")})
    with pytest.raises(SourceError, match="either 'path' or 'dataset'"):
        registry.make({"type": "tfds"})
    (tmp_path / "sa1b/1.0.0/.progress").mkdir(parents=True)
    (tmp_path / "sa1b/1.0.0/.progress/plan.json").write_text("{}")
    with pytest.raises(SourceError, match="has not finished; run the same"):
        registry.make({"type": "tfds", "path": str(tmp_path / "sa1b")})


def test_rendered_scenes_are_a_source():
    source = registry.make(registry.parse("scenes:A?count=3&size=56&seed=5"))
    record = source[2]
    assert record["image"].shape == (56, 56, 3) and record["image"].dtype == np.uint8
    assert record["depth"].shape == (56, 56) and record["shift_known"]
    assert is_labelled(source)
    with pytest.raises(SourceError, match="'scenes' has no field 'sise'; did you mean 'size'"):
        registry.make(registry.parse("scenes:A?count=3&sise=56"))
    with pytest.raises(SourceError, match="'scenes' needs the field 'count'"):
        registry.make(registry.parse("scenes:A?size=56"))
    for text in ("count=abc", "count=2.5", "count=3&size=True"):
        field, _, value = text.rpartition("&")[2].partition("=")
        with pytest.raises(SourceError, match=f"{field}='?{value}'?: must be a whole number"):
            registry.make(registry.parse(f"scenes:A?{text}"))
    with pytest.raises(SourceError, match="fov='wide': must be a number, as fov=100"):
        registry.make(registry.parse("scenes:A?count=3&fov=wide"))


# --- the real pairs ----------------------------------------------------------------------------


def test_the_whole_shared_manifest_loads(shared):
    folder = shared / "data" / "labelled"
    rows = json.loads((folder / "manifest.json").read_text())
    source = registry.make({"type": "rgbd", "path": str(folder)})
    assert len(source) == len(rows) == 100
    for i, entry in enumerate(rows):
        record = source[i]
        assert record["key"] == entry["rgb"] and list(record["valid"].shape) == entry["hw"]
        values = record[entry["kind"]][record["valid"]].astype(np.float64)
        # The manifest's figures are rounded to 4 and 3 digits after the point.
        assert abs(record["valid"].mean() - entry["valid_frac"]) <= 1e-4, entry["rgb"]
        percentiles = np.percentile(values, [1, 50, 99])
        np.testing.assert_allclose(
            percentiles, entry["p1_p50_p99"], rtol=1e-5, atol=1e-3, err_msg=entry["rgb"]
        )
