"""Finding and reading photos: folders, globs, videos with cuts, and going on after a kill."""

import json

import cv2
import numpy as np
import pytest

from depth_anything_jax.adaptation import photos
from depth_anything_jax.data.file_formats import formats


def picture(seed, h=40, w=60, cells=6):
    """A picture unlike those of other seeds, smooth enough for JPEG."""
    small = np.random.default_rng(seed).integers(0, 255, (cells, cells, 3), np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def save(folder, *names, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(formats.encode_png(picture(seed + i)))


def find(tmp_path, *given, fps=1.0):
    (tmp_path / "out").mkdir(exist_ok=True)
    told = []
    out = str(tmp_path / "out")
    return *photos.find([str(g) for g in given], out, fps=fps, tell=told.append), told


def test_a_photo_that_failed_is_read_again(tmp_path, monkeypatch):
    save(tmp_path / "a", "x.png", "y.png")

    def lacking(path):
        raise formats.FormatError(f"{path} needs the extra [heic]")

    with monkeypatch.context() as patch:
        patch.setattr(photos.formats, "read_image", lacking)
        found, _, _ = find(tmp_path, tmp_path / "a")
    assert all("[heic]" in p.error for p in found)
    found, _, _ = find(tmp_path, tmp_path / "a")
    assert [p.error for p in found] == ["", ""] and found[0].size == (40, 60)


def test_a_folder_gives_its_photos_with_size_and_hash(tmp_path):
    save(tmp_path / "a", "x.png", "sub/y.png")
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no picture")
    found, failed, _ = find(tmp_path, tmp_path / "a")
    assert not failed
    by = {p.name: p for p in found}
    assert list(by) == ["broken.jpg", "sub/y.png", "x.png"]
    assert by["x.png"].size == (40, 60) and by["x.png"].root == str(tmp_path / "a")
    assert by["x.png"].hash != by["sub/y.png"].hash
    assert by["broken.jpg"].error and by["broken.jpg"].hash is None


def test_globs_and_files_share_the_folder_above_them(tmp_path):
    save(tmp_path / "a", "x.png", "y.png")
    save(tmp_path / "b", "z.png", seed=5)
    found, _, _ = find(tmp_path, tmp_path / "a" / "*.png", tmp_path / "b" / "z.png")
    assert {p.root for p in found} == {str(tmp_path)}
    assert [p.name for p in found] == ["a/x.png", "a/y.png", "b/z.png"]


def test_a_second_scan_reads_what_is_new_or_changed(tmp_path, monkeypatch):
    save(tmp_path / "a", "x.png", "y.png")
    first, _, _ = find(tmp_path, tmp_path / "a")
    with (tmp_path / "out" / photos.LOG).open("a") as file:
        file.write('{"path": "kill')  # a scan that was killed while it wrote
    save(tmp_path / "a", "z.png", seed=9)
    read = []
    original = formats.read_image
    monkeypatch.setattr(formats, "read_image", lambda p: read.append(p) or original(p))
    second, _, _ = find(tmp_path, tmp_path / "a")
    assert read == [str(tmp_path / "a" / "z.png")]
    assert second[:2] == first and len(second) == 3


def test_no_photo_is_told_with_the_place(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no picture or video in this folder"):
        find(tmp_path, tmp_path / "a")
    with pytest.raises(ValueError, match="--photos: .*no such file or folder"):
        find(tmp_path, tmp_path / "nowhere")
    save(tmp_path / "what?", "x.png")
    with pytest.raises(ValueError, match="rename the folder"):
        find(tmp_path, tmp_path / "what?")


def test_frames_of_a_video_are_taken_at_the_rate_and_named_by_shot(tmp_path):
    pytest.importorskip("av")
    from tests.helpers import video_files

    frames = [picture(i, 96, 128, 24) for i in (1, 2) for _ in range(20)]
    file = video_files.write(tmp_path / "walk.mp4", frames, rate=10)
    found, failed, told = find(tmp_path, file, fps=1.0)
    assert not failed and any("frames are extracted" in line for line in told)
    assert [p.scene for p in found] == ["walk\n0"] * 2 + ["walk\n1"] * 2
    assert found[0].name.startswith("walk/shot000-") and found[0].size == (96, 128)
    done = json.loads((tmp_path / "out" / "frames" / "walk" / "done.json").read_text())
    again, _, told = find(tmp_path, file, fps=1.0)
    assert again == found and not told and len(done["frames"]) == 4
    more, _, _ = find(tmp_path, file, fps=2.0)
    assert len(more) == 8


def test_a_video_that_cannot_be_read_is_named(tmp_path):
    pytest.importorskip("av")
    save(tmp_path / "a", "x.png")
    (tmp_path / "a" / "clip.mp4").write_bytes(b"\0" * 64)
    found, failed, _ = find(tmp_path, tmp_path / "a")
    assert len(found) == 1 and failed[0][0].endswith("clip.mp4") and failed[0][1]
