"""Sets of which only the images are read: folders, tars, LMDB, videos; damage is named."""

import pathlib
import pickle
import types

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats, tars, video_frames
from depth_anything_jax.data.sources.base import SourceError, is_labelled
from depth_anything_jax.data.sources.tfds_writer import encode
from tests.helpers import training_set_files as files
from tests.helpers.benchmark_files import write
from tests.helpers.training_set_files import jpeg


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def make(text, **options):
    return registry.make(registry.parse(text) | options)


def keys(source):
    return [source.key(i) for i in range(len(source))]


HEX = "0123456789abcdef"
LAYOUTS = {
    "landmarks": [f"a/b/c/{HEX}.jpg", f"train/0/1/2/{HEX}.jpg"],
    "imagenet21k": ["n02689274/n02689274_12997.JPEG", "winter21/n02689274/n02689274_1.JPEG"],
    "objects365": ["patch0/objects365_v1_00000000.jpg", "images/train/objects365_v2_00000012.jpg"],
    "openimages": [f"train_0/{HEX}.jpg", f"train/data/{HEX}.jpg"],
    "places365": [
        "data_large/a/airfield/00000001.jpg",
        "data_256/a/apartment_building/outdoor/00000002.jpg",
        "data_256_standard/a/airfield/00000003.jpg",
        "data_large_standard/b/bar/00000004.jpg",
    ],
    "sa1b": ["sa_1.jpg", "sa_000000/sa_2.jpg"],
    "bdd100k": ["bdd100k/images/100k/train/0000f77c-6257be58.jpg", "images/100k/train/1.jpg"],
}
TARS = {
    "landmarks": ("images_000.tar", f"./a/b/c/{HEX}.jpg"),
    "imagenet21k": ("n02689274.tar", "n02689274_12997.JPEG"),
    "objects365": ("patch3.tar", "patch3/objects365_v1_00000000.jpg"),
    "openimages": ("train_f.tar", f"train_f/{HEX}.jpg"),
    "places365": ("train_256_places365standard.tar", "data_256_standard/a/airfield/1.jpg"),
    "sa1b": ("sa_000123.tar", "sa_7.jpg"),
}
UNREAD = {
    "objects365": ("images/val/objects365_v1_00000001.jpg", "validation image"),
    "openimages": (f"validation/{HEX}.jpg", "validation image"),
    "bdd100k": ("bdd100k/images/100k/val/1.jpg", "val part"),
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_unpacked(tmp_path, name):
    for number, path in enumerate(LAYOUTS[name]):
        write(tmp_path / path, jpeg(seed=number))
    write(tmp_path / "labels.json", "{}")
    write(tmp_path / "other/picture.jpg", jpeg())
    if name in UNREAD:
        write(tmp_path / UNREAD[name][0], jpeg())
    source = make(f"{name}:{tmp_path}")
    assert sorted(keys(source)) == sorted(LAYOUTS[name]) and not is_labelled(source)
    assert source.left_out == ({UNREAD[name][1]: 1} if name in UNREAD else {})
    for index, key in enumerate(keys(source)):
        number = LAYOUTS[name].index(key)
        expected = formats.decode_image(jpeg(seed=number))
        np.testing.assert_array_equal(source[index]["image"], expected)
        example = encode(source, index, encoding=None, masks=[])
        assert example["image"] == jpeg(seed=number) and example["dataset"] == name
        assert source.files(index) == [str(tmp_path / key)]
    files.cut(tmp_path / source.key(0), 0.6)
    with pytest.raises(formats.FormatError, match=f"{pathlib.Path(source.key(0)).name}: truncated"):
        source[0]


@pytest.mark.parametrize("name", sorted(TARS))
def test_tars_are_read_without_unpacking(tmp_path, name):
    tar, member = TARS[name]
    files.tar(tmp_path / "part" / tar, {member: jpeg(seed=4), "notes.json": b"{}"})
    source = make(f"{name}:{tmp_path}")
    assert keys(source) == [f"part/{tar}/{member.removeprefix('./')}"]
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[0]["image"], formats.decode_image(jpeg(seed=4)))
    assert encode(source, 0, encoding=None, masks=[])["image"] == jpeg(seed=4)
    assert source.files(0) == []
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [tar]


def test_sa1b_with_masks_and_damage(tmp_path):
    members = {f"sa_{i}.{kind}": jpeg(seed=i) for i in range(4) for kind in ("jpg", "json")}
    files.tar(tmp_path / "sa_000000.tar", members)
    files.tar(tmp_path / "sa_000001.tar", {"sa_9.jpg": jpeg(seed=9), "sa_10.jpg": jpeg()[:90]})
    source = make(f"sa1b:{tmp_path}")
    assert keys(source)[:2] == ["sa_000000.tar/sa_0.jpg", "sa_000000.tar/sa_1.jpg"]
    assert len(source) == 6
    with pytest.raises(formats.FormatError, match=r"sa_000001.tar/sa_10.jpg: truncated"):
        source[5]
    files.cut(tmp_path / "sa_000000.tar", 0.3)
    with pytest.warns(UserWarning, match="sa_000000.tar is cut off"):
        source = make(f"sa1b:{tmp_path}")
    assert 2 < len(source) < 6 and source.left_out["behind the end of a tar that is cut off"] == 1
    for index in range(len(source) - 1):
        assert source[index]["image"].shape == (6, 8, 3)
    write(tmp_path / "sa_000000/sa_0.jpg", jpeg())
    with (
        pytest.warns(UserWarning),
        pytest.raises(SourceError, match="1 images lie unpacked .*tars"),
    ):
        make(f"sa1b:{tmp_path}")


def test_the_index_of_a_tar_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "sa_000000.tar"
    files.tar(path, {"sa_1.jpg": jpeg()})
    first = tars.index(path)
    monkeypatch.setattr(tars, "_list", None)  # cannot be made again
    second = tars.index(path)
    assert second.names == first.names and list(second.files()) == list(first.files())
    monkeypatch.undo()
    files.tar(path, {"sa_1.jpg": jpeg(), "sa_22.jpg": jpeg()})
    assert tars.index(path).names == ["sa_1.jpg", "sa_22.jpg"]  # another size, another index
    files.tar(tmp_path / "empty.tar", {})
    assert (
        tars.index(tmp_path / "empty.tar").names == tars.index(tmp_path / "empty.tar").names == []
    )


def test_a_kept_index_that_is_damaged_is_made_again(tmp_path):
    path = tmp_path / "sa_000000.tar"
    files.tar(path, {"sa_1.jpg": jpeg()})
    tars.index(path)
    (kept,) = pathlib.Path(tars.cache()).glob("*.npz")
    for damaged in (b"", kept.read_bytes()[:100]):
        kept.write_bytes(damaged)
        assert tars.index(path).names == ["sa_1.jpg"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    files.tar(tmp_path / "sa_000000.tar", {"sa_1.jpg": jpeg()})
    assert tars.index(tmp_path / "sa_000000.tar").names == ["sa_1.jpg"]


def test_a_tar_of_tars(tmp_path):
    for number in range(3):
        members = {f"n0000000{number}_{i}.JPEG": jpeg(seed=i) for i in range(2)}
        files.tar(tmp_path / f"n0000000{number}.tar", members)
    inner = {f"n0000000{i}.tar": (tmp_path / f"n0000000{i}.tar").read_bytes() for i in range(3)}
    files.tar(tmp_path / "one" / "fall11_whole.tar", inner)
    source = make(f"imagenet21k:{tmp_path}/one")
    assert len(source) == 6
    assert source.key(3) == "fall11_whole.tar/n00000001.tar/n00000001_1.JPEG"
    for index in range(6):
        expected = formats.decode_image(jpeg(seed=index % 2))
        np.testing.assert_array_equal(source[index]["image"], expected)


def test_packed_tars_are_refused(tmp_path):
    files.tar(tmp_path / "sa_000000.tar", {"sa_1.jpg": jpeg()}, mode="w:gz")
    with pytest.raises(formats.FormatError, match="sa_000000.tar: not a tar that can be read"):
        make(f"sa1b:{tmp_path}")
    files.tar(tmp_path / "b" / "patch0.tar.gz", {"patch0/objects365_v1_00000000.jpg": jpeg()})
    with pytest.raises(SourceError, match="objects365: looked for .* unpack them first"):
        make(f"objects365:{tmp_path}/b")


# --- LSUN --------------------------------------------------------------------------------------


def lsun(folder, count=3):
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    webp = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    images = {f"{i:040x}": webp if i % 2 else jpeg(seed=i) for i in range(count)}
    with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as t:
        for key, data in images.items():
            t.put(key.encode(), data)
    return images


def test_lsun(tmp_path):
    images = lsun(tmp_path / "bedroom_train_lmdb") | lsun(tmp_path / "lsun/tower_train_lmdb", 2)
    lsun(tmp_path / "tower_val_lmdb")
    write(tmp_path / "bedroom_train_lmdb/notes.txt", "unexpected")
    source = make(f"lsun:{tmp_path}")
    assert len(source) == 5 and source.key(3) == f"lsun/tower_train_lmdb/{0:040x}"
    again = pickle.loads(pickle.dumps(source))
    for index in range(5):
        data = images[source.key(index).rpartition("/")[2]]
        np.testing.assert_array_equal(again[index]["image"], formats.decode_image(data))
        assert encode(source, index, encoding=None, masks=[])["image"] == data  # WebP too
    alone = make(f"lsun:{tmp_path}/bedroom_train_lmdb")
    assert alone.key(0) == f"bedroom_train_lmdb/{0:040x}" and alone[0]["image"].shape == (6, 8, 3)


def test_damaged_lsun_is_named(tmp_path):
    pytest.importorskip("lmdb")
    write(tmp_path / "bar_train_lmdb/data.mdb", b"no database" * 1000)
    with pytest.raises(formats.FormatError, match="bar_train_lmdb: not an LMDB"):
        make(f"lsun:{tmp_path}")


# --- BDD100K -----------------------------------------------------------------------------------


def video(path, frames=30, rate=10):
    """A video whose frame k is grey of level 8k."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 8 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def levels(source):
    return [source[i]["image"].mean() / 8 for i in range(len(source))]


def test_bdd100k_frames_a_second(tmp_path):
    video(tmp_path / "bdd100k/videos/train/a-1.mov")
    video(tmp_path / "bdd100k/videos/train/b-2.mov", frames=15)
    video(tmp_path / "bdd100k/videos/val/c-3.mov")
    source = make(f"bdd100k:{tmp_path}")
    assert keys(source)[:2] == [f"bdd100k/videos/train/a-1.mov#{t}" for t in ("0.000", "0.500")]
    assert len(source) == 6 + 3 and source.left_out == {"val part": 1}
    wanted = [0, 5, 10, 15, 20, 25, 0, 5, 10]
    np.testing.assert_allclose(levels(source), wanted, atol=0.7)
    backwards = [source[i]["image"].mean() / 8 for i in (4, 1, 8, 0)]
    np.testing.assert_allclose(backwards, [20, 5, 10, 0], atol=0.7)
    fast = make(f"bdd100k:{tmp_path}?fps=5")
    assert len(fast) == 15 + 7
    np.testing.assert_allclose(levels(fast)[:5], [0, 2, 4, 6, 8], atol=0.7)
    example = encode(source, 5, encoding=None, masks=[])
    assert example["image"][:2] == b"\xff\xd8"
    np.testing.assert_array_equal(formats.decode_image(example["image"]), source[5]["image"])
    assert source.files(5) == [str(tmp_path / "bdd100k/videos/train/a-1.mov")]
    with pytest.raises(SourceError, match="fps=0"):
        make(f"bdd100k:{tmp_path}?fps=0")


def test_a_video_that_ends_early_gives_no_frame_twice(tmp_path, monkeypatch):
    video(tmp_path / "videos/train/a.mov", frames=15)
    monkeypatch.setattr(video_frames, "duration", lambda path: 4.0)  # its header's
    source = make(f"bdd100k:{tmp_path}")
    assert len(source) == 8
    np.testing.assert_allclose(
        [source[i]["image"].mean() / 8 for i in range(3)], [0, 5, 10], atol=0.7
    )
    for late in (4, 7):
        with pytest.raises(formats.FormatError, match="no frame at"):
            source[late]
    assert source[1]["image"].mean() / 8 == pytest.approx(5, abs=0.7)


def test_frames_without_a_time_are_passed_over(tmp_path, monkeypatch):
    video(tmp_path / "videos/train/a.mov")
    source = make(f"bdd100k:{tmp_path}")

    class Damaged:
        """A container whose every frame comes a first time without its time."""

        def __init__(self, path):
            self.container = opened(path)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def decode(self, stream):
            for frame in self.container.decode(stream):
                yield types.SimpleNamespace(pts=None)
                yield frame

    av = video_frames._import_av("a.mov")
    opened = av.open
    monkeypatch.setattr(video_frames._state, "frames", None, raising=False)
    monkeypatch.setattr(av, "open", Damaged)
    np.testing.assert_allclose(levels(source), [0, 5, 10, 15, 20, 25], atol=0.7)


def test_a_damaged_video_is_named(tmp_path):
    path = tmp_path / "videos/train/a.mov"
    video(path)
    files.cut(path)
    source = make(f"bdd100k:{tmp_path}")
    assert len(source) == 1
    with pytest.raises(formats.FormatError, match="a.mov: no frame at 0.000 s"):
        source[0]
