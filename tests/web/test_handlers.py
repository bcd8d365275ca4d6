"""The page's work without a browser: what it makes, what it refuses, its folder, its settings."""

import copy
import dataclasses
import os
import pathlib
import stat
import struct
import subprocess
import sys
import time
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.video import depth16
from depth_anything_jax.web import handlers as work_lib
from depth_anything_jax.web import (
    http_server,
    login,
    points_view,
    results,
)
from depth_anything_jax.web import upload_folder as folder_lib
from tests.helpers import api_models, video_files
from tests.helpers.app_files import LOGIN, SECRET, glb, holiday_photo, made_of, surroundings


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    with surroundings(tmp_path_factory.mktemp("tmp")):
        yield


@pytest.fixture(scope="module")
def models(environment):
    return {
        "relative": DepthAnything(api_models.instant()),
        "metric": DepthAnything(api_models.instant(max_depth=20.0)),
    }


@pytest.fixture
def private():
    with folder_lib.Folder(60.0).open() as folder:
        yield folder


@pytest.fixture
def make(models, private):
    def made(kind="relative", **limits):
        return work_lib.Work(models[kind], private, work_lib.Limits(**limits))

    return made


@pytest.fixture
def photo(tmp_path):
    return holiday_photo(tmp_path / "holiday photo.jpg")


# What is made


def test_a_photo_gives_what_the_api_gives(make, photo):
    work = make()
    result = work.depth(str(photo))
    expected = work.model(photo)
    for path in work.files(result):
        found = Depth.load(path)
        assert found.kind == expected.kind and found.intrinsics == expected.intrinsics
        # 16 bits over the map's range; the .npz is exact
        step = np.ptp(expected.depth) / 65535 if path.endswith(".png") else 0
        np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-6, atol=0.51 * step)
    shown, colours = work.pair(result, "inferno")
    assert np.array_equal(np.asarray(shown), expected.image)
    assert np.array_equal(np.asarray(colours), np.asarray(expected.to_pil("inferno")))
    path = work.colours(result, "inferno")
    assert np.array_equal(Image.open(path), np.asarray(colours))
    assert len({path, work.colours(result, "turbo"), work.colours(result, "turbo", True)}) == 3
    turned = work.pair(result, "grey", invert=True)[1]
    assert np.array_equal(turned, expected.to_pil("grey", invert=True).convert("RGB"))
    assert (
        "relative inverse depth" in result.text and "cannot be converted to metres" in result.text
    )


def test_large_photos_are_shown_smaller_and_kept_whole(make, tmp_path, monkeypatch):
    monkeypatch.setattr(work_lib, "SHOWN", 40)
    path = tmp_path / "a.png"
    Image.fromarray(api_models.photo(60, 80)).save(path)
    work = make()
    result = work.depth(str(path))
    assert [p.size for p in work.pair(result, "turbo")] == [(40, 30)] * 2
    assert Image.open(work.colours(result, "turbo")).size == (80, 60)


def test_metres_stay_metres(make, photo, monkeypatch):
    work = make("metric")
    result = work.depth(str(photo))
    expected = work.model(photo)
    near, far = expected.range
    assert f"nearest {near:.3g} m" in result.text and f"farthest {far:.3g} m" in result.text
    shown, colours = work.pair(result, "turbo")
    assert shown.size == colours.size and shown.size[1] > 60, "a bar with its numbers"
    bar = np.asarray(colours)[60:]
    assert np.array_equal(np.asarray(shown)[60:], bar)
    assert np.array_equal(
        bar, np.asarray(expected.to_pil("turbo", colorbar=True).convert("RGB"))[60:]
    )
    png = np.asarray(Image.open(work.files(result)[0]))
    millimetres = np.round(1000.0 * expected.depth.astype(np.float64))
    np.testing.assert_array_equal(png, np.maximum(millimetres, 1))  # 0 is unknown
    path, text, _ = work.cloud(result)
    assert path.endswith(".glb") and "in metres" in text and "EXIF: 26 mm" in text

    # Beyond 65.535 m a 16-bit PNG has 256 units a metre, and says so.
    far = Depth(expected.depth * 10 + 1, METRIC, image=expected.image)
    results.keep(far, result.folder, result.stem, "")
    found = Depth.load(work.files(result)[0])
    np.testing.assert_allclose(found.depth, far.depth, atol=0.51 / 256)


def test_points_of_relative_maps_only_when_asked_for(make, photo):
    work = make()
    result = work.depth(str(photo))
    path, text, place = work.cloud(result)
    assert path is None and place is None and "the shape in space is unknown" in text
    path, text, _ = work.cloud(result, assume=True)
    assert "shift of 0 is assumed" in text and "without unit" in text
    assert glb(path)["extras"]["unit"] is None
    shown = points_view.without_sky(work.model(photo))
    nearer = shown.to_point_cloud(relative=True, far=points_view.clip(shown))
    assert glb(path)["accessors"][0]["count"] == len(nearer)
    other, text, _ = work.cloud(result, assume=True, fov=50)
    assert "field of view" in text and other != path, "a browser keeps what it had under a name"
    assert not os.path.exists(path)


def test_points_are_as_many_as_a_phone_turns(make, photo, monkeypatch):
    monkeypatch.setattr(work_lib, "POINTS", 1000)
    work = make("metric")
    path, text, _ = work.cloud(work.depth(str(photo)))
    assert 0 < glb(path)["accessors"][0]["count"] <= 1000 and "one of 3 × 3 pixels" in text


def test_nothing_of_the_file_but_its_pixels_is_kept(make, photo, private):
    work = make()
    result = work.depth(str(photo))
    work.files(result), work.colours(result, "turbo"), work.cloud(result, assume=True)
    made = made_of(private)
    assert len(made) >= 7
    for path in made:
        data = path.read_bytes()
        if path.suffix == ".npz":
            data = b"".join(np.load(path)[n].tobytes() for n in np.load(path))
        assert SECRET not in data and b"Exif" not in data and b"Secret" not in data, path.name
        if path.suffix == ".png":
            image = Image.open(path)
            assert not dict(image.getexif()) and set(image.info) <= {
                "Description",
                "depth_anything_jax",
            }
    for picture in work.pair(result, "turbo"):
        assert not picture.info and not dict(picture.getexif())


@pytest.fixture
def clip(tmp_path):
    frames = list(video_files.counting(20, 56, 70))
    path = tmp_path / "clip.mp4"
    video_files.write(path, frames, rate=Fraction(10), sound="aac", tags={"title": SECRET.decode()})
    return str(path)


def test_a_video_up_to_the_limit(make, clip, private):
    work = make(seconds=0.5)
    done = []
    found, mkv, text = work.video(
        clip, "turbo", beside=True, sixteen=True, progress=lambda *a: done.append(a)
    )
    assert (
        found.endswith("clip.side-by-side.mp4")
        and done[-1][:2] == (5, 5)
        and done[-1][2].startswith("frame 5 of 5")
    )
    assert "5 frames at 10" in text and "first 0.5 seconds" in text and "Flicker" in text
    kind, maps = depth16.read_depth(mkv)
    assert kind == "relative inverse depth" and len(list(maps)) == 5
    assert all(SECRET not in p.read_bytes() for p in made_of(private))
    found, mkv, text = make().video(clip, "grey")
    assert mkv is None and "first" not in text and "20 frames" in text


def test_a_model_that_needs_a_camera_asks_for_it(models, make, clip, photo, tmp_path):
    """A video's file never says its focal length, a photo's may not."""
    work = make("metric")
    canonical = dataclasses.replace(work.model.recipe, focal=100.0)
    work.model = copy.copy(work.model)
    work.model.recipe = canonical
    bare = tmp_path / "bare.png"
    Image.fromarray(api_models.photo(56, 70)).save(bare)
    for call in (lambda: work.depth(str(bare)), lambda: work.video(clip, "turbo")):
        with pytest.raises(work_lib.Problem, match="give the field of view"):
            call()
    assert work.depth(str(photo)) and work.depth(str(bare), 60)
    deepest = []
    for fov in (60, 90):
        _, mkv, _ = work.video(clip, "turbo", sixteen=True, fov=fov)
        deepest.append(np.mean([values.mean() for _, values in depth16.read_depth(mkv)[1]]))
    # of the focal lengths: tan 45 to tan 30 degrees; in units of 1/256 m
    assert deepest[0] / deepest[1] == pytest.approx(3**0.5, rel=1e-2)


def test_a_running_video_is_cancelled_by_its_own_session_alone(make, clip, private):
    work, seen = make(), []

    def progress(done, count, text):
        seen.append(done)
        assert not work.cancel("another") and work.cancel("mine")

    with pytest.raises(work_lib.Cancelled, match="Cancelled after 2 frames; nothing of it"):
        work.video(clip, "turbo", progress=progress, session="mine")
    assert seen == [1] and not made_of(private) and pathlib.Path(clip).exists()
    assert not work.cancel("mine")  # it has ended
    assert work.video(clip, "turbo", session="mine")[0].endswith(".mp4")


def test_the_time_left_counts_from_the_first_frame():
    assert work_lib.remaining(1, 50, 0.0) == "frame 1 of 50"
    assert work_lib.remaining(11, 51, 20.0) == "frame 11 of 51, about 80 s left"
    assert work_lib.remaining(3, None, 9.0) == "frame 3"


# What is refused, and in which words


def claims(path, width, height):
    """A PNG that says it is larger than it is: decoding it would fail."""
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    return str(path)


def test_uploads_beyond_the_limits_are_refused(make, photo, clip, tmp_path, monkeypatch):
    with pytest.raises(work_lib.Problem, match="big.png: 30000x30000 is 900 million pixels"):
        make().depth(claims(tmp_path / "big.png", 30000, 30000))
    Image.new("RGB", (4000, 60)).save(tmp_path / "thin.png")
    with pytest.raises(
        work_lib.Problem, match="thin.png: 4000 × 60 is too long and narrow: crop it"
    ):
        make().depth(str(tmp_path / "thin.png"))
    video = tmp_path / "copy.mp4"
    monkeypatch.setattr(work_lib, "VIDEO_PIXELS", 1000)
    for call, message in (
        (lambda: make(bytes=100).depth(str(photo)), "more than 0 MB"),
        (lambda: make(bytes=100).video(str(video), "turbo"), "more than 0 MB"),
        (lambda: make().video(str(video), "turbo"), "frames of 70x56, the limit is"),
    ):
        video.write_bytes(pathlib.Path(clip).read_bytes())
        with pytest.raises(work_lib.Problem, match=message):
            call()
    # They are deleted at once, and a second try says so.
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mp4"}
    with pytest.raises(work_lib.Problem, match="copy.mp4 was cleared: upload it again"):
        make().video(str(video), "turbo")


def test_errors_name_the_file_and_no_path(make, tmp_path, photo, monkeypatch, caplog):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:700])
    (tmp_path / "text.mp4").write_text("no video")
    work = make()
    for call, name in (
        (lambda: work.depth(str(broken)), "broken.jpg"),
        (lambda: work.video(str(tmp_path / "text.mp4"), "turbo"), "text.mp4"),
    ):
        with pytest.raises(work_lib.Problem, match=name) as caught:
            call()
        assert str(tmp_path) not in str(caught.value) and "/" not in str(caught.value)
    with pytest.raises(work_lib.Problem, match="colours are one of"):
        work.colours(work.depth(str(photo)), "/etc/passwd")
    # What is no fault of the upload is told to the log alone.
    for error in (RuntimeError("RESOURCE_EXHAUSTED in /opt/x/y.py"), ValueError("bad /opt/x/y")):
        monkeypatch.setattr(work.model, "stream", lambda *a, e=error, **k: (_ for _ in [1 / 0, e]))
        with pytest.raises(work_lib.Problem) as caught:
            work.depth(str(photo))
        assert "its log has the details" in str(caught.value) and "/" not in str(caught.value)
    assert "Traceback" in caplog.text


def test_a_result_that_was_cleared_says_so(make, photo, private):
    work = make()
    result = work.depth(str(photo))
    assert private.tidy(time.time() + 59) == 0
    assert private.tidy(time.time() + 61) == 3
    assert not result.folder.exists() or not list(result.folder.iterdir())
    with pytest.raises(work_lib.Problem, match="cleared after 1 minutes"):
        work.pair(result, "turbo")


# The folder


def test_the_folder_is_private_and_leaves_nothing():
    here = os.getcwd()
    with folder_lib.Folder(60.0).open() as folder:
        assert pathlib.Path.cwd() == folder.empty and not list(folder.empty.iterdir())
        for path in (folder.root, folder.files, folder.empty, folder.new()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (folder.new() / "a.png").write_bytes(b"x")
        assert folder.holds(folder.files / "a") and not folder.holds("a")
        assert not folder.holds(folder.files / ".." / "empty" / "a")
        assert not folder.holds("/etc/passwd") and not folder.holds("x\0")
        (folder.files / "link").symlink_to("/etc/passwd")
        assert not folder.holds(folder.files / "link")
    assert not folder.root.exists() and os.getcwd() == here


def test_the_timer_runs(monkeypatch):
    with folder_lib.Folder(0.2).open() as folder:
        path = folder.new() / "a.png"
        path.write_bytes(b"x")
        for _ in range(100):
            if not path.parent.exists():
                break
            time.sleep(0.1)
        assert not path.parent.exists()


def test_folders_of_killed_servers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lib.tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f"{folder_lib.PREFIX}{ended.pid}-abc" / "files"
    running = tmp_path / f"{folder_lib.PREFIX}{os.getppid()}-abc"
    other = tmp_path / "something-else"
    for path in (left, running, other):
        path.mkdir(parents=True)
    folder_lib.Folder(60.0)
    assert not left.parent.exists() and running.exists() and other.exists()


def test_an_upload_is_kept_where_it_is_not_at_fault(make, clip, photo):
    work = make()
    with pytest.raises(work_lib.Problem, match="colours are one of"):
        work.video(clip, "x")
    work.folder.max_bytes = -1
    with pytest.raises(work_lib.Problem, match="cleared after 1 minutes"):
        work.depth(str(photo))
    assert photo.exists() and pathlib.Path(clip).exists()


# Who may ask


@pytest.mark.parametrize(
    "host, local",
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True)]
    + [(h, False) for h in ("0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.evil.org")],
)
def test_beyond_this_machine_only_with_a_password(host, local, tmp_path, monkeypatch, make):
    monkeypatch.delenv(login.VARIABLE, raising=False)
    assert login.is_loopback(host) is local
    if local:
        assert login.credentials(host, None) is None
    else:
        with pytest.raises(ValueError, match="requires a password"):
            login.credentials(host, None)
        with pytest.raises(ValueError, match="requires a password"):
            http_server.settings(make(), host=host, port=1, login=None)
    monkeypatch.setenv(login.VARIABLE, ":".join(LOGIN))
    assert login.credentials(host, None) == LOGIN


def test_passwords_come_from_a_file_that_is_private(tmp_path):
    file = tmp_path / "password"
    file.write_text(":".join(LOGIN) + "\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        login.credentials("0.0.0.0", str(file))
    file.chmod(0o600)
    assert login.credentials("0.0.0.0", str(file)) == LOGIN
    for bad in ("jane", ":long enough, no name", "jane:short", " "):
        file.write_text(bad)
        with pytest.raises(ValueError, match="password"):
            login.credentials("127.0.0.1", str(file))
    file.write_bytes(b"jane:\xff\xfe" + bytes(12))
    with pytest.raises(ValueError, match="password: must be a text of UTF-8"):
        login.credentials("127.0.0.1", str(file))
    with pytest.raises(ValueError, match="Name a file") as caught:
        login.credentials("0.0.0.0", ":".join(LOGIN))
    assert LOGIN[1] not in str(caught.value)


@pytest.mark.parametrize("limit", ["--max_megabytes=inf", "--max-gigabytes=nan"])
def test_limits_are_finite(limit):
    command = [sys.executable, "-m", "depth_anything_jax.app", limit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "must be a finite number" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_settings_are_closed_whatever_the_environment_says(make, private, monkeypatch):
    for name, value in {
        "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_MCP_SERVER": "True", "GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_TEMP_DIR": "/",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    http_server.set_environment(private)
    left = {k: v for k, v in os.environ.items() if k.startswith("GRADIO_")}
    assert left == {
        "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(private.files),
    }  # fmt: skip
    found = http_server.settings(make(bytes=7), host="127.0.0.1", port=1, login=None)
    for name in ("share", "show_error", "mcp_server", "ssr_mode", "enable_monitoring", "pwa"):
        assert found[name] is False
    assert found["max_file_size"] == 7 and found["allowed_paths"] == []
    assert found["footer_links"] == [] and found["run_history"] is False
