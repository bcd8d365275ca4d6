"""The predict program: what goes in, what it writes and refuses, videos, resume, exit codes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.cli import batch, outputs
from depth_anything_jax.cli import inputs as folders
from depth_anything_jax.cli import resume as resuming
from depth_anything_jax.data.file_formats import photos
from depth_anything_jax.inference import compilation_cache, depth_files
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.video import depth16, reader
from tests.helpers import api_models, video_files

OPTIONS = batch.Options(input_size=56)


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compilation_cache.VARIABLE, "")
        return DepthAnything(api_models.instant())


@pytest.fixture
def album(tmp_path):
    """Two pictures of one name, one below, a text that calls itself a picture, a hidden file."""
    root = tmp_path / "album"
    (root / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "a.jpg", "sub/a.png")):
        Image.fromarray(api_models.photo(60, 80, seed=i)).save(root / name)
    (root / "broken.jpg").write_text("no picture")
    (root / "._a.png").write_text("macOS")
    (root / "notes.txt").write_text("none either")
    return root


def run(model, inputs, out, *, options=OPTIONS, **style):
    out.mkdir(exist_ok=True)
    items = folders.find([str(i) for i in inputs], without=out)
    return batch.run(model, items, out, outputs.Style(**style), options)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# What goes in


def test_names_follow_the_inputs_and_never_meet(album, tmp_path):
    stems = {i.source.removeprefix(str(album)): str(i.stem) for i in folders.find([str(album)])}
    assert stems == {
        "/a.jpg": "a_jpg",
        "/a.png": "a_png",
        "/broken.jpg": "broken",
        "/sub/a.png": "sub/a",
    }
    other = tmp_path / "other" / "album"
    (other / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(other / "A.PNG")
    both = folders.find([str(album), str(other), str(album / "a.png")])
    names = [str(i.stem).lower() for i in both]
    assert len(both) == 5, "a file that is named twice comes once"
    assert len(set(names)) == 5 and all(n.startswith("album/") for n in names)


def test_names_that_meet_again_are_numbered_until_they_do_not(tmp_path):
    for name in ("a.jpg", "a.png", "a_jpg.png", "a_jpg_0.png", "A_jpg_0.bmp"):
        (tmp_path / name).write_bytes(b"x")
    stems = [str(i.stem).lower() for i in folders.find([str(tmp_path)])]
    assert len(set(stems)) == 5


def test_the_output_folder_may_hold_the_pictures_that_are_named(album, monkeypatch):
    monkeypatch.chdir(album)
    assert len(folders.find(["a.png", "sub/a.png"], without=".")) == 2
    for text in (".", "*.png", "sub"):
        with pytest.raises(ValueError, match=r"all of it lies in --out=\., .* another folder"):
            folders.find(["a.png", text], without=".")


def test_one_of_several_that_is_not_there_is_named_at_the_end(model, album, tmp_path, capsys):
    moving = tmp_path / "moving.gif"
    frames = [Image.fromarray(api_models.photo(seed=i)) for i in range(2)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    inputs = ["lost.png", str(album / "*.gif"), album / "a.png", moving]
    problems = run(model, inputs, tmp_path / "out", formats=("npy",))
    assert [name for name, _ in problems] == ["lost.png", str(album / "*.gif")]
    assert all("No such file" in text for _, text in problems)
    assert files(tmp_path / "out") == ["a.depth.npy", "moving.depth.npy"]
    assert f"{moving}: holds 2 images: the first is used" in capsys.readouterr().out


def test_links_to_nothing_are_named(album):
    (album / "lost.png").symlink_to("nowhere.png")
    (album / "loop").symlink_to(album, target_is_directory=True)
    found = [pathlib.Path(i.source).name for i in folders.find([str(album)])]
    assert "lost.png" in found and len(found) == 5


def test_linked_folders_are_followed_once(album, tmp_path):
    """Under their own name where they lie in the input; loops end; two links to a file are two."""
    out = tmp_path / "elsewhere"
    (out / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(out / "deep" / "far.png")
    (out / "back").symlink_to(album, target_is_directory=True)
    (out / "up").symlink_to(tmp_path, target_is_directory=True)
    (album / "aa").symlink_to(out, target_is_directory=True)
    (album / "again").symlink_to(out, target_is_directory=True)
    (album / "Sub").symlink_to(album / "sub", target_is_directory=True)
    (album / "twin.png").symlink_to("a.png")
    found = sorted(str(i.stem) for i in folders.find([str(album)]))
    assert found == ["a_jpg", "a_png", "aa/deep/far", "broken", "sub/a", "twin"]


def test_hidden_folders_are_skipped_and_what_is_not_read_is_counted(album):
    for name in (".thumbnails/a.png", "sub/.git/b.png"):
        (album / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(album / name)
    for name in ("b.TXT", "README", "c.jp2", "d.tga", "e.vob", "f.heic"):
        (album / name).write_text("")
    told = []
    found = [pathlib.Path(i.source).name for i in folders.find([str(album)], tell=told.append)]
    assert found == ["a.jpg", "a.png", "broken.jpg", "c.jp2", "d.tga", "e.vob", "f.heic", "a.png"]
    assert told == [f"{album}: not read: 2 .txt, 1 without a suffix"]
    (album / "sub" / "a.png").unlink()
    (album / "sub" / "a.raw").write_text("")
    with pytest.raises(ValueError, match=r"no picture or video in .*, only 1 .raw"):
        folders.find([str(album / "sub")])


def test_folders_that_cannot_be_read_are_counted(album, monkeypatch):
    """Of root every folder can be read: the error is made here."""
    scandir = os.scandir

    def refusing(path):
        if pathlib.Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    told = []
    assert len(folders.find([str(album)], tell=told.append)) == 3
    assert told == [f"{album}: not read: 1 .txt, 1 folders that cannot be read"]


def test_the_content_says_what_is_a_video(album, tmp_path):
    video_files.write(album / "clip.mp4", video_files.counting(2))
    video_files.write(album / "raw.h264", video_files.counting(2), pixels="yuv420p")
    (album / "clip.mp4").rename(album / "clip.jpg")
    (album / "a.png").rename(album / "a.mov")
    (album / "unknown.mov").write_text("?")
    found = {i.source.removeprefix(f"{album}/"): i.video for i in folders.find([str(album)])}
    assert found == {
        "a.jpg": False, "a.mov": False, "broken.jpg": False, "clip.jpg": True, "raw.h264": True,
        "unknown.mov": True, "sub/a.png": False,
    }  # fmt: skip
    (album / "raw.h264").rename(album / "no suffix")
    (album / "sub" / "a.png").rename(album / "none")
    (album / "README").write_text("neither")
    told = []
    found = {i.source.removeprefix(f"{album}/"): i.video for i in folders.find([str(album)])}
    assert found["no suffix"] and not found["none"] and "README" not in found
    assert folders.find([str(album / "no suffix")], tell=told.append)[0].video and not told


@pytest.mark.parametrize("brand", sorted(photos.HEIF | photos.AVIF))
def test_photos_and_animations_in_mp4_boxes_are_pictures(tmp_path, brand):
    """Of an animation the first image is used, as of a GIF."""
    (tmp_path / "a").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1miaf")
    (found,) = folders.find([str(tmp_path / "a")])
    assert not found.video and reader.is_video(tmp_path / "a") is False


def test_names_of_any_length_and_with_colons(model, tmp_path, monkeypatch):
    """Results whose names fit are written; the others are named and stop nothing."""
    monkeypatch.chdir(tmp_path)
    source = video_files.write("clip.mp4", video_files.counting(2))
    fits, beyond = "n" * (255 - len(".depth.mkv")), "m" * 251
    for name in ("12:30", fits, beyond):
        pathlib.Path(f"{name}.mp4").write_bytes(pathlib.Path(source).read_bytes())
        Image.fromarray(api_models.photo(60, 80)).save(f"{name}.png")
    pathlib.Path(source).unlink()
    os.remove(f"{fits}.png")  # ….color.mp4 and ….depth.mkv; the others have longer suffixes
    items = folders.find(["."], without="out")
    style = outputs.Style()
    facts = {"checkpoint": "one"}
    out = pathlib.Path(".")
    assert resuming.missing(out, items, style, facts, resume=True, overwrite=False) == items
    resuming.begin(out, items, style, facts)
    problems = batch.run(model, items, out, style, OPTIONS)
    assert sorted({name for name, _ in problems}) == [f"{beyond}.mp4", f"{beyond}.png"]
    assert all("cannot be written (File name too long)" in text for _, text in problems)
    written = {f.name for f in out.iterdir()} - {i.source for i in items} - {resuming.FACTS}
    assert written == {
        "12:30_mp4.color.mp4", "12:30_mp4.depth.mkv", "12:30_png.color.png", "12:30_png.depth.png",
        f"{fits}.color.mp4", f"{fits}.depth.mkv",
    }  # fmt: skip


def test_globs_and_what_is_left_out(album):
    found = folders.find([str(album / "**" / "*.png")])
    assert [str(i.stem) for i in found] == ["a", "sub/a"]
    assert len(folders.find([str(album)], without=album / "sub")) == 3
    assert folders.find(["-"])[0] == folders.Item("-", folders.pathlib.PurePath("stdin"))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.jpg", FileNotFoundError, "none.jpg: no such file"),
        ("*.gif", FileNotFoundError, "matches no picture"),
        ("empty", ValueError, "no picture or video in this folder"),
        ("https://example.org/a.jpg", ValueError, "not fetched"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, monkeypatch, name, error, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        folders.find([name])


# What comes out


def test_a_folder_in_all_formats(model, album, tmp_path):
    out = tmp_path / "out"
    formats = tuple(outputs.PICTURES)
    problems = run(model, [album], out, formats=formats, relative_cloud=True)
    assert [(pathlib.Path(n).name, "not a picture" in t) for n, t in problems] == [
        ("broken.jpg", True)
    ], "the rest is done"
    ends = outputs.PICTURES.values()
    assert files(out) == sorted(f"{s}{e}" for s in ("a_jpg", "a_png", "sub/a") for e in ends)
    alone = model(album / "a.png", input_size=56)
    for end in (".depth.npz", ".depth.exr"):
        np.testing.assert_array_equal(Depth.load(out / f"a_png{end}").depth, alone.depth)
    raw = np.asarray(Image.open(out / "a_png.depth.png"))
    assert raw.dtype == np.uint16 and (raw.min(), raw.max()) == (0, 65535)
    nearest = np.unravel_index(alone.depth.argmax(), alone.depth.shape)
    assert raw[nearest] == 65535, "near is white"
    both = np.asarray(Image.open(out / "a_png.side-by-side.png"))
    assert both.shape == (60, 2 * 80 + outputs.GAP, 3)
    assert (both[:, :80] == api_models.photo(60, 80, seed=0)).all()
    assert (both[:, 88:] == np.asarray(Image.open(out / "a_png.color.png"))).all()


def test_grey_and_inverted(model, album, tmp_path):
    picture = album / "a.png"
    run(model, [picture], tmp_path / "grey", colormap="grey", formats=("png16", "color"))
    run(
        model,
        [picture],
        tmp_path / "dark",
        colormap="grey",
        formats=("png16", "color"),
        invert=True,
    )
    for name, white in (("a.color.png", 255), ("a.depth.png", 65535)):
        near, far = (np.asarray(Image.open(tmp_path / d / name)) for d in ("grey", "dark"))
        assert near.ndim == 2 and np.abs(near.astype(int) + far - white).max() <= 1  # rounding
    assert Depth.load(tmp_path / "dark" / "a.depth.png").depth == pytest.approx(
        Depth.load(tmp_path / "grey" / "a.depth.png").depth, abs=1e-4
    )


def test_metres_are_never_stretched(tmp_path):
    depth = Depth(np.array([[1.5, 3.0], [60.0, np.inf]], np.float32), METRIC)
    style = outputs.Style(formats=("png16", "npy", "color"))
    outputs.write(depth, tmp_path, folders.pathlib.PurePath("a"), style)
    assert np.asarray(Image.open(tmp_path / "a.depth.png")).tolist() == [[1500, 3000], [60000, 0]]
    np.testing.assert_array_equal(np.load(tmp_path / "a.depth.npy"), depth.depth)
    assert Image.open(tmp_path / "a.color.png").height > 2, "a bar with metres hangs below"
    far = Depth(np.array([[1.0, 70.0]], np.float32), METRIC)
    outputs.write(far, tmp_path, folders.pathlib.PurePath("b"), style)
    assert np.asarray(Image.open(tmp_path / "b.depth.png")).tolist() == [[256, 70 * 256]]


def test_a_format_that_fails_does_not_stop_the_others(tmp_path):
    far = Depth(np.array([[1.0, 70.0]], np.float32), METRIC)
    style = outputs.Style(formats=("png16", "color", "npy"), png_scale=1000)
    with pytest.raises(ValueError, match=r"c.depth.png: depth reaches 70.0 m"):
        outputs.write(far, tmp_path, folders.pathlib.PurePath("c"), style)
    assert files(tmp_path) == ["c.color.png", "c.depth.npy"]


def test_one_range_of_colours_for_all(model, album, tmp_path, capsys):
    out, fixed = tmp_path / "shared", tmp_path / "fixed"
    run(model, [album / "a.png", album / "a.jpg"], out, formats=("color",), range="shared")
    assert len(files(out)) == 2, "what waited is gone"
    maps = [model(album / name, input_size=56) for name in ("a.png", "a.jpg")]
    near, far = max(m.range[0] for m in maps), min(m.range[1] for m in maps)
    assert f"colours from {near:.4g} to {far:.4g}" in capsys.readouterr().out
    run(model, [album / "a.png", album / "a.jpg"], fixed, formats=("color",), range=(near, far))
    for name in files(out):
        assert (out / name).read_bytes() == (fixed / name).read_bytes()


@pytest.mark.parametrize("formats", [("color",), ("color", "side-by-side")])
def test_a_picture_that_cannot_be_coloured_later_is_told_and_the_rest_done(
    model, album, tmp_path, monkeypatch, formats
):
    """Of several formats that fail all are told."""
    replaced = depth_files.replaced

    def full(path):
        if path.name.startswith("a_jpg"):
            raise OSError(28, "No space left on device")
        return replaced(path)

    monkeypatch.setattr(depth_files, "replaced", full)
    two = [album / "a.jpg", album / "a.png"]
    problems = run(model, two, tmp_path / "out", formats=formats, range="shared")
    ((name, what),) = problems
    assert name.endswith("a.jpg") and what.count("No space left") == len(formats)
    done = files(tmp_path / "out")
    assert len(done) == len(formats) and all(name.startswith("a_png") for name in done)


def test_what_a_relative_model_cannot_say_is_refused():
    style = outputs.Style(formats=("ply",))
    style.check("m")
    with pytest.raises(ValueError, match="--relative-cloud, which assumes a shift of 0"):
        style.check(None)
    outputs.Style(formats=("glb",), relative_cloud=True).check(None)
    with pytest.raises(ValueError, match="--format tiff: tiff is not one of png16"):
        outputs.Style(formats=("tiff",)).check(None)
    with pytest.raises(ValueError, match="colormap='rainbows'"):
        outputs.Style(colormap="rainbows").check(None)
    for given in (
        {"range": (5.0, 5.0)}, {"png_scale": 0.0}, {"fov": 200.0}, {"edge": -1.0}, {"far": 0.0},
        {"intrinsics": (0.0, 1.0, 2.0, 3.0)}, {"intrinsics": (1.0,) * 4, "fov": 60.0},
    ):  # fmt: skip
        (name, *_) = given
        with pytest.raises(ValueError, match=name):
            outputs.Style(**given).check(None)


def test_when_the_network_fails_the_others_are_done(model, album, tmp_path, monkeypatch):
    """Out of memory at one picture of many: that one is named, none else is lost."""
    wide = tmp_path / "wide.png"
    Image.fromarray(api_models.photo(60, 200)).save(wide)
    real = type(model)._maps

    def failing(self, inputs, count):
        def checked():
            for x in inputs:
                if x.image.shape[1] > 100:
                    raise RuntimeError("RESOURCE_EXHAUSTED")
                yield x

        return real(self, checked(), count)

    monkeypatch.setattr(type(model), "_maps", failing)
    out = tmp_path / "out"
    problems = run(model, [album / "a.png", wide, album / "a.jpg"], out, formats=("npy",))
    assert problems == [(str(wide), "RESOURCE_EXHAUSTED")]
    assert len(files(out)) == 2


def test_a_video(model, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    video_files.write(clip, video_files.counting(5, 32, 48), sound="aac")
    out = tmp_path / "out"
    assert not run(model, [clip], out, formats=("png16", "color", "side-by-side", "npy"))
    told = capsys.readouterr().out
    line = r"clip\.mp4: 5 frames in .+ \(.+ a second\), flicker [\d.e-]+ % → [\d.e-]+ %, no cuts\n"
    assert re.search(line, told), told
    ends = (".color.mp4", ".depth.mkv", ".side-by-side.mp4")
    assert files(out) == [f"clip{e}" for e in ends]
    kind, maps = depth16.read_depth(out / "clip.depth.mkv")
    assert kind == RELATIVE and len(list(maps)) == 5
    both = reader.Reader(out / "clip.side-by-side.mp4")
    assert (both.info.height, both.info.width, both.info.audio) == (32, 104, 1)


def test_a_video_in_metres_has_a_bar_of_metres(tmp_path):
    """Under the colours; beside the frame the frame stays above it."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    video_files.write(clip, video_files.counting(3, 64, 96))
    metric = DepthAnything(api_models.instant(max_depth=20.0))
    assert not run(metric, [clip], out, formats=("color", "side-by-side", "png16"))
    heights = {}
    for path in sorted(out.iterdir()):
        frames = [frame.image for frame in reader.Reader(path)] if path.suffix == ".mp4" else []
        heights[path.name] = {len(image) for image in frames}
    assert heights.pop("clip.depth.mkv") == set()
    assert all(h == {64 + 3 * 12} for h in heights.values()), heights
    kind, maps = depth16.read_depth(out / "clip.depth.mkv")
    assert kind == "depth in metres" and next(maps)[1].shape == (64, 96), "numbers have none"


def test_a_broken_video_is_named(model, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0" * 100)
    problems = run(model, [clip], tmp_path / "out")
    assert [name for name, _ in problems] == [str(clip)] and not files(tmp_path / "out")


# What is there already


def test_nothing_is_overwritten_silently(model, album, tmp_path):
    out, items = tmp_path / "out", folders.find([str(album / "a.png"), str(album / "a.jpg")])
    style, facts = outputs.Style(formats=("npy",)), {"checkpoint": "one"}

    def prepare(facts=facts, resume=False, overwrite=False):
        return resuming.missing(out, items, style, facts, resume=resume, overwrite=overwrite)

    assert prepare() == items and not out.exists()
    resuming.make_folder(out)
    resuming.begin(out, items, style, facts)
    batch.run(model, items[:1], out, style, OPTIONS)
    with pytest.raises(ValueError, match=r"1 of the files already exist, .*a_png.depth.npy"):
        prepare()
    assert prepare(resume=True) == items[1:]
    assert prepare(overwrite=True) == items
    with pytest.raises(ValueError, match=r"made with checkpoint='one', and now it is 'two'"):
        prepare(facts={"checkpoint": "two"}, resume=True)
    # A folder of before an option was added: its default was used.
    assert prepare(facts=facts | {"max_res": None, "colormap": "Spectral_r"}, resume=True)
    with pytest.raises(ValueError, match=r"made with max_res=None, and now it is 640"):
        prepare(facts=facts | {"max_res": 640}, resume=True)
    for damaged in ("{", "[]", "[" * 100_000):
        (out / resuming.FACTS).write_text(damaged)
        with pytest.raises(ValueError, match=r"predict.json is damaged"):
            prepare(resume=True)
    (out / resuming.FACTS).write_text("{")
    with pytest.raises(ValueError, match=r"predict.json is damaged"):
        prepare(resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        resuming.missing(tmp_path / "file", items, style, facts, resume=False, overwrite=False)


def test_what_an_overwriting_run_has_not_come_to_is_made_by_resume(model, album, tmp_path):
    """Files of the run before are not taken for its own."""
    out, items = tmp_path / "out", folders.find([str(album / "a.png"), str(album / "a.jpg")])
    style, facts = outputs.Style(formats=("npy",)), {"checkpoint": "two"}
    resuming.make_folder(out)
    resuming.begin(out, items, style, {"checkpoint": "one"})
    batch.run(model, items, out, style, OPTIONS)
    again = resuming.missing(out, items, style, facts, resume=False, overwrite=True)
    resuming.begin(out, again, style, facts)
    batch.run(model, again[:1], out, style, OPTIONS)  # and was stopped
    assert resuming.missing(out, items, style, facts, resume=True, overwrite=False) == items[1:]


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--out=.*file/below: cannot be written \(Not a directory"):
        resuming.make_folder(tmp_path / "file" / "below")
    depth = Depth(np.ones((2, 2), np.float32), RELATIVE)
    with pytest.raises(OSError, match=r"none/a.npy: cannot be written \(No such file"):
        depth.save(tmp_path / "none" / "a.npy")

    def full(*arguments):
        raise OSError("4 requested and 2 written")  # as numpy says it

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"a.npy: cannot be written \(4 requested"):
        depth.save(tmp_path / "a.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# The command line


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the demo's size."""
    folder, found = tmp_path_factory.mktemp("weights") / "model", api_models.found()
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    params = jax.tree.map(jax.numpy.asarray, found.params)
    orbax_io.save_params(folder, params, {**meta, "licence": "apache-2.0", "licence_chain": []})
    return folder


def command(*arguments, folder, **options):
    return subprocess.run(
        [sys.executable, "-m", "depth_anything_jax.predict", *map(str, arguments)],
        capture_output=True,
        timeout=300,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            compilation_cache.VARIABLE: str(folder / "cache"),
        },
        **options,
    )


def test_the_program(weights, album, tmp_path):
    out = tmp_path / "out"
    options = (f"--out={out}", f"--checkpoint={weights}", "--size=56", "--format=npy,color")
    done = command(album, *options, folder=tmp_path)
    assert done.returncode == 1, done.stderr.decode()
    error = done.stderr.decode()
    assert "1 of the inputs failed" in error and "broken.jpg: not a picture" in error
    assert "Traceback" not in error
    assert "3 of 4 done" in done.stdout.decode()
    assert json.loads((out / resuming.FACTS).read_text())["formats"] == ["npy", "color"]
    assert len(files(out)) == 3 * 2 + 1

    (album / "broken.jpg").unlink()
    picture = (album / "a.png").read_bytes()
    piped = command("-", *options, "--resume", folder=tmp_path, input=picture)
    assert piped.returncode == 0, piped.stderr.decode()
    same = (np.load(out / f"{name}.depth.npy") for name in ("stdin", "a_png"))
    np.testing.assert_array_equal(*same)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(weights, tmp_path, number):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(300):
        Image.fromarray(api_models.photo(56, 70, seed=i)).save(photos / f"{i}.png")
    arguments = [photos, f"--out={out}", f"--checkpoint={weights}", "--size=56"]
    arguments += ["--format=png16,color,ply", "--relative-cloud", "--fov=60", "--edge=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "depth_anything_jax.predict", *map(str, arguments)],
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            compilation_cache.VARIABLE: str(tmp_path / "cache"),
        },
    )
    while not list(out.glob("*.ply")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 130 and "--resume makes the missing files" in error, error
    assert "Traceback" not in error
    left = files(out)
    assert len(left) < 3 * 300 and not [name for name in left if name.startswith(".")]
    done = command(*arguments, "--resume", folder=tmp_path)
    assert done.returncode == 0 and "are already done" in done.stdout.decode()
    assert len(files(out)) == 3 * 300 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], "FileNotFoundError: none.jpg: no such file or folder"),
        (
            ["a.png", "--out=gs://b/depth"],
            "ValueError: --out=gs://b/depth: give a local or mounted",
        ),
        (["a.png", "--format=tiff"], "ValueError: --format tiff"),
        (["a.png", "--range=1"], "ValueError: --range=1: must be 2 numbers"),
        (["a.png", "--intrinsics=1,2,x,4"], "ValueError: --intrinsics=1,2,x,4: must be 4 numbers"),
        (["a.mp4", "--format=npy"], "npy is for pictures; of videos: png16, color, side-by-side"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    (tmp_path / "a.mp4").write_bytes(b"")

    done = command("--out=out", *arguments, "--checkpoint=none", folder=tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr.decode()
    assert b"Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert not (tmp_path / "gs:").exists()
