"""Videos in and out: times, rotation, sound, damage, limits; depth in 16 bits keeps its meaning."""

import re
import sys
import weakref
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="the extra [video]")

from depth_anything_jax.data.scenes.source import render  # noqa: E402
from depth_anything_jax.data.sources.base import disparity_of  # noqa: E402
from depth_anything_jax.video import process as process_lib  # noqa: E402
from depth_anything_jax.video import writer as writer_lib  # noqa: E402
from depth_anything_jax.video.depth16 import read_depth  # noqa: E402
from depth_anything_jax.video.process import process  # noqa: E402
from depth_anything_jax.video.reader import Reader, VideoError  # noqa: E402
from depth_anything_jax.video.writer import Writer  # noqa: E402
from tests.helpers.video_files import NTSC, counting, sound_packets, write  # noqa: E402

# H.264 at crf 1 and the way to YCbCr and back in 8 bits
CODED = 6


def near(got, expected, tolerance=CODED):
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < tolerance


def inverse(frames):
    """A network that sees depth in the red channel."""
    return [frame[..., 0].astype(np.float32) / 100 + 0.5 for frame in frames]


def test_frames_of_too_many_pixels_are_refused(tmp_path):
    """Announced ones at once; those that a stream goes over to later cost themselves alone."""
    small, large = (
        write(tmp_path / f"{k}.h264", list(counting(4, 32 * k, 48 * k)), pixels="yuv420p")
        for k in (1, 10)
    )
    with pytest.raises(VideoError, match="frames of 480x320, the limit is 0.01 million pixels"):
        Reader(large, max_pixels=10_000)
    both = tmp_path / "both.h264"
    with open(small, "rb") as a, open(large, "rb") as b:
        both.write_bytes(a.read() + b.read())
    assert len(list(Reader(both))) == 8
    reader = Reader(both, max_pixels=10_000)
    assert 1 <= len(list(reader)) <= 4 and "damaged" in reader.problems[0]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_frames_and_exact_times(tmp_path, suffix):
    frames = list(counting(9))
    reader = Reader(write(tmp_path / f"a.{suffix}", frames))
    info = reader.info
    assert (info.height, info.width, info.rate) == (32, 48, NTSC)
    assert info.frames == 9 and info.codec == "h264" and not info.audio
    for _ in range(2):  # each iteration starts anew
        got = list(reader)
        assert [f.time for f in got] == [i / NTSC for i in range(9)]
        for frame, expected in zip(got, frames, strict=True):
            near(frame.image, expected)
        assert reader.problems == []


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_rotation_is_applied(tmp_path, rotation):
    """FFmpeg's matrix turns the stored picture to the left by so many degrees: phones that are held
    upright store lying pictures and -90."""
    upright = list(counting(3, 32, 48))
    stored = [np.rot90(x, -rotation // 90) for x in upright]
    reader = Reader(write(tmp_path / "a.mp4", stored, rotation=rotation))
    assert (reader.info.height, reader.info.width) == (32, 48)
    for frame, expected in zip(reader, upright, strict=True):
        near(frame.image, expected)


def test_variable_frame_rate_is_kept(tmp_path):
    """The files have the mode of any other file that the user writes, too."""
    gaps = [Fraction(g, 90000) for g in (3000, 9000, 3003, 1500, 45000, 3000, 3000)]
    times = [sum(gaps[:i], Fraction(0)) for i in range(8)]
    source = write(tmp_path / "a.mp4", counting(8), times=times)
    assert [f.time for f in Reader(source)] == times
    process(source, {tmp_path / "b.mp4": "color", tmp_path / "b.mkv": "depth16"}, inverse)
    (tmp_path / "any").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("b.mp4", "b.mkv", "any")}
    assert len(modes) == 1, "written for whoever may read the user's files"
    assert [f.time for f in Reader(tmp_path / "b.mp4")] == times
    got = [float(t) for t, _ in read_depth(tmp_path / "b.mkv")[1]]
    np.testing.assert_allclose(got, [float(t) for t in times], atol=5e-4)  # milliseconds there


@pytest.mark.parametrize("rate", [NTSC, Fraction(25), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize("suffixes", [("mp4", "mp4"), ("mkv", "mp4"), ("mp4", "mkv")])
def test_frame_rate_and_sound_are_kept(tmp_path, rate, suffixes):
    source = write(tmp_path / f"a.{suffixes[0]}", counting(12), rate=rate, sound="aac")
    out = tmp_path / f"b.{suffixes[1]}"
    report = process(source, {out: "color"}, inverse)
    assert report.frames == 12 and report.problems == [] and report.notes == []
    reader = Reader(out)
    assert reader.info.rate == rate and reader.info.audio == 1
    assert [f.time for f in reader] == [i / rate for i in range(12)]
    before, when = sound_packets(source)
    after, then = sound_packets(out)
    # not coded anew; what lies after the last frame goes
    assert after == before[: len(after)] and len(before) - len(after) <= 2
    # Matroska has no negative times (AAC begins before 0) and moves all tracks alike; it rounds to
    # milliseconds, here up to twice.
    moved = float(reader.info.start)
    np.testing.assert_allclose(np.array(then) - moved, when[: len(then)], atol=2.1e-3)


def test_sound_stays_with_its_picture(tmp_path):
    """A video whose picture begins .1 s after its sound, as phones write them."""
    times = [Fraction(1, 10) + i / NTSC for i in range(12)]
    source = write(tmp_path / "a.mkv", counting(12), times=times, sound="aac")
    reader = Reader(source)
    assert float(reader.info.start) == pytest.approx(0.1, abs=1e-3)
    process(source, {tmp_path / "b.mkv": "color"}, inverse)
    before, when = sound_packets(source)
    after, then = sound_packets(tmp_path / "b.mkv")
    first = before.index(after[0])
    assert first > 0
    # Matroska writes no negative times: the muxer may move all tracks by the same amount.
    moved = float(Reader(tmp_path / "b.mkv").info.start)
    np.testing.assert_allclose(
        np.array(then) - moved, np.array(when[first : first + len(then)]) - 0.1, atol=2.1e-3
    )


def test_sound_that_the_container_cannot_hold(tmp_path):
    source = write(tmp_path / "a.mkv", counting(4), sound="pcm_u8")
    report = process(source, {tmp_path / "b.mp4": "color"}, inverse)
    assert "pcm_u8" in report.notes[0] and ".mkv" in report.notes[0]
    assert Reader(tmp_path / "b.mp4").info.audio == 0
    process(source, {tmp_path / "b.mkv": "color"}, inverse)
    assert Reader(tmp_path / "b.mkv").info.audio == 1
    process(source, {tmp_path / "c.mkv": "color"}, inverse, sound=False)
    assert Reader(tmp_path / "c.mkv").info.audio == 0


def test_nothing_else_of_the_source_is_copied(tmp_path):
    tags = {"title": "at home", "location": "+48.85+002.35/"}
    source = write(tmp_path / "a.mp4", counting(3), tags=tags, sound="aac")
    with av.open(source) as container:
        assert "at home" in container.metadata.values()
    process(source, {tmp_path / "b.mp4": "color", tmp_path / "b.mkv": "depth16"}, inverse)
    for name in ("b.mp4", "b.mkv"):
        assert b"at home" not in (tmp_path / name).read_bytes()
        assert b"+48.85" not in (tmp_path / name).read_bytes()


def test_limits(tmp_path):
    source = write(tmp_path / "a.mp4", counting(12, 64, 128), rate=Fraction(30))
    reader = Reader(source, max_len=5)
    assert len(list(reader)) == reader.info.frames == 5 and reader.problems == []
    reader = Reader(source, target_fps=10)
    assert [f.time for f in reader] == [Fraction(i, 10) for i in range(4)]
    assert reader.info.rate == 10 and reader.info.frames == 4
    assert len(list(Reader(source, target_fps=60))) == 12 and Reader(source).info.rate == 30
    reader = Reader(source, max_res=50)
    assert next(iter(reader)).image.shape == (24, 50, 3) == (reader.info.height, 50, 3)
    small = next(iter(Reader(source, max_res=64))).image
    near(small, next(counting(12, 64, 128))[::2, ::2])
    assert Reader(source, max_res=500).info.width == 128
    for name, value in (
        ("max_len", 0), ("max_res", 0), ("target_fps", 0), ("target_fps", np.nan),
        ("target_fps", np.inf),
    ):  # fmt: skip
        with pytest.raises(VideoError, match=f"{name} must be"):
            Reader(source, **{name: value})
    source = write(tmp_path / "b.mkv", counting(12))  # rounded to milliseconds
    assert [f.time for f in Reader(source, target_fps=15)] == [2 * i / NTSC for i in range(6)]


@pytest.mark.parametrize("rate", [1 / 3600, 1e-9])
def test_one_frame_an_hour(tmp_path, rate):
    hours = [Fraction(0), Fraction(1800), Fraction(3600)]
    source = write(tmp_path / "a.mp4", counting(3), times=hours)
    wanted = [t for t in hours if int(t * Fraction(rate).limit_denominator(10**6)) or not t]
    report = process(source, {tmp_path / "b.mp4": "color"}, inverse, target_fps=rate)
    assert report.frames == len(wanted) == 1 + (rate > 1e-6) and not report.problems
    assert [f.time for f in Reader(tmp_path / "b.mp4")] == wanted


def test_pixels_that_are_not_square(tmp_path):
    reader = Reader(write(tmp_path / "a.mp4", counting(2, 32, 48), aspect=Fraction(4, 3)))
    assert (reader.info.height, reader.info.width) == (32, 64)
    assert next(iter(reader)).image.shape == (32, 64, 3)


def test_frames_that_no_player_shows_twice(tmp_path):
    """Raw H.264 has no times: the rate makes them."""
    source = write(tmp_path / "a.h264", counting(6), rate=Fraction(25))
    times = [f.time for f in Reader(source)]
    assert len(times) == 6 and all(b > a for a, b in zip(times, times[1:], strict=False))


def cut(path, target, share=0.5):
    data = path.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


def test_truncated_videos_keep_what_was_read(tmp_path):
    noisy = list(np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8))
    write(tmp_path / "a.mkv", noisy)
    source = cut(tmp_path / "a.mkv", tmp_path / "cut.mkv")
    report = process(source, {tmp_path / "b.mp4": "color"}, inverse)
    assert 5 <= report.frames <= 12 and "truncated" in " ".join(report.problems)
    assert len(list(Reader(tmp_path / "b.mp4"))) == report.frames
    # MP4 with its index at the start
    process(tmp_path / "a.mkv", {tmp_path / "fast.mp4": "color"}, inverse)
    source = cut(tmp_path / "fast.mp4", tmp_path / "cut.mp4", 0.7)
    reader = Reader(source)
    got = len(list(reader))
    assert 1 <= got < 20 and f"of {20} frames: truncated" in " ".join(reader.problems)
    # and at the end, as cameras write it: nothing can be read
    write(tmp_path / "late.mp4", noisy)
    with pytest.raises(VideoError, match=r"cut\.mp4: not a video, or its beginning or index"):
        Reader(cut(tmp_path / "late.mp4", tmp_path / "cut.mp4"))


def test_avi(tmp_path):
    """Its header counts frames that hold nothing: those are no loss."""
    noisy = list(np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8))
    path = tmp_path / "a.avi"
    write(path, noisy, codec="mpeg4", pixels="yuv420p", rate=Fraction(25))
    reader = Reader(path)
    assert len(list(reader)) == 20 and reader.problems == []
    reader = Reader(cut(path, tmp_path / "cut.avi"))
    assert 1 <= len(list(reader)) < 20 and "truncated" in reader.problems[-1]


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "sound"),
    [("flv", "flv1", "yuv420p", "aac"), ("mxf", "mpeg2video", "yuv422p", None)],
)
def test_a_file_shorter_than_its_header_says(tmp_path, suffix, codec, pixels, sound):
    noisy = list(np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), np.uint8))
    path = tmp_path / f"a.{suffix}"
    write(path, noisy, codec=codec, pixels=pixels, rate=Fraction(25), sound=sound)
    reader = Reader(path)
    assert len(list(reader)) == 30 and reader.problems == []
    reader = Reader(cut(path, tmp_path / f"cut.{suffix}", 0.6))
    assert 5 <= len(list(reader)) < 30
    assert re.fullmatch(r"ends after 0\.\d+ of 1\.2\d s: truncated", reader.problems[-1])


def test_damage_in_the_middle(tmp_path):
    noisy = list(np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), np.uint8))
    path = tmp_path / "a.mkv"
    write(path, noisy)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    reader = Reader(path)
    got = list(reader)
    assert 10 <= len(got) < 20 or reader.problems
    assert reader.problems
    times = [f.time for f in got]
    assert all(b > a for a, b in zip(times, times[1:], strict=False))


def test_what_is_no_video(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"hello, I am a text\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    for name, message in [
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "not a video"),
        ("folder.mp4", "is a folder"),
        ("gone.mp4", "no such file"),
        ("http://localhost/a.mp4", "no such file"),
    ]:
        with pytest.raises(VideoError, match=message):
            Reader(name if "//" in name else tmp_path / name)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds no video, only audio"):
        Reader(tmp_path / "sound.mp4")


def test_playlists_open_no_other_file(tmp_path):
    """FFmpeg alone follows both of these to the other file, wherever it lies."""
    write(tmp_path / "secret.ts", counting(4))
    secret = tmp_path / "secret.ts"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(playlist)
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile '{secret.name}'\n")
    for name in ("a.m3u8", "b.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert next(container.decode(video=0))
        with pytest.raises(VideoError, match="not a video"):
            Reader(tmp_path / name)


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "plain.mp4", counting(2))
    (tmp_path / "plain.mp4").rename("pipe:0 50%?#é.mp4")
    assert len(list(Reader("pipe:0 50%?#é.mp4"))) == 2


def test_colours_survive(tmp_path):
    """BT.709 in and out: what is painted is what players show."""
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (128, 128, 128),
        (255, 255, 255),
        (9, 99, 199),
    ]
    image = np.repeat(np.array(colours, np.uint8)[None], 16, axis=0).repeat(16, axis=1)
    with Writer(tmp_path / "a.mp4", height=16, width=96, rate=25) as writer:
        for i in range(3):
            writer.write(Fraction(i, 25), image)
    assert writer.codec == "libx264" and writer.notes == []
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)
        rgb = frame.to_ndarray(format="rgb24").astype(int)
    # the middles of the patches: 4:2:0 mixes colours at edges; the limited range has 219 steps
    assert np.abs(rgb[4:12, 8::16] - image[4:12, 8::16].astype(int)).max() <= 4


def test_other_codecs_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_lib, "CODECS", ("no such codec", "mpeg4"))
    with Writer(tmp_path / "a.mp4", height=16, width=16, rate=25) as writer:
        writer.write(0, np.zeros((16, 16, 3), np.uint8))
    assert writer.codec == "mpeg4" and "mpeg4" in writer.notes[0]
    assert Reader(tmp_path / "a.mp4").info.codec == "mpeg4"


def test_odd_sides(tmp_path):
    image = np.full((15, 17, 3), 90, np.uint8)
    with Writer(tmp_path / "a.mp4", height=15, width=17, rate=25) as writer:
        writer.write(0, image)
    near(next(iter(Reader(tmp_path / "a.mp4"))).image, np.full((16, 18, 3), 90))


def test_sixteen_bits_come_back_exactly(tmp_path):
    """Of frames of any size, with the meaning beside the numbers."""
    source = write(tmp_path / "a.mp4", counting(5, 30, 46))
    rng = np.random.default_rng(0)
    maps = list(rng.uniform(0, 12, (5, 30, 46)).astype(np.float32))
    maps[2][3, 4] = np.inf  # sky
    given = iter(maps)

    def predict(frames):
        return [next(given) for _ in frames]

    process(source, {tmp_path / "m.mkv": "depth16"}, predict, metric=True, batch_size=2)
    kind, got = read_depth(tmp_path / "m.mkv")
    assert kind == "depth in metres"
    for (_, values), expected in zip(got, maps, strict=True):
        expected = expected.astype(np.float64)
        wanted = np.where(np.isfinite(expected), np.round(expected * 1000) / 1000, 0)
        np.testing.assert_allclose(values, wanted, rtol=1e-6)  # float32 of whole millimetres
    given = iter([10 * m for m in maps])
    far = tmp_path / "far.mkv"
    report = process(source, {far: "depth16"}, predict, metric=True, depth_scale=1000)
    assert "beyond 65.535 m were stored as 0, unknown" in report.notes[0]
    for (_, values), expected in zip(read_depth(far)[1], maps, strict=True):
        np.testing.assert_array_equal(values > 0, np.round(10_000 * expected) <= 65535)


def test_a_quick_pan_is_smoothed(tmp_path):
    """Nothing in a pan of 6 % of the width a frame is taken for a cut; two scenes are two."""
    scenes = [render("A", 1, index, 224)["image"][40:136] for index in (0, 2)]
    frames = [image[:, 8 * k : 8 * k + 128] for image in scenes for k in range(10)]
    source = write(tmp_path / "a.mp4", frames, rate=Fraction(5))
    rng = np.random.default_rng(0)
    base = np.linspace(1, 5, 96 * 128, dtype=np.float32).reshape(96, 128)

    def predict(batch):
        return [base * np.float32(rng.uniform(0.8, 1.2)) for _ in batch]

    report = process(source, {tmp_path / "b.mkv": "depth16"}, predict)
    assert report.cuts == [2.0]
    assert report.flicker_after < report.flicker_before / 8


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"kind": "x"}', '{"scale": "1000"}', '{"scale": 0}']
)
def test_a_damaged_tag_of_depth16(tmp_path, content):
    path = tmp_path / "a.mkv"
    tags = {"DEPTH_ANYTHING": content}
    with Writer(path, height=8, width=8, rate=25, sixteen_bits=True, tags=tags) as writer:
        writer.write(0, np.zeros((8, 8), np.uint16))
    with pytest.raises(ValueError, match=f"^{path}.* its tag DEPTH_ANYTHING"):
        read_depth(path)


@pytest.mark.parametrize("when", [0, 3])
@pytest.mark.parametrize(("farthest", "scale"), [(79, 256), (300, 100)])
def test_metres_beyond_16_bits_of_millimetres(tmp_path, when, farthest, scale):
    """Whenever the first such frame comes, the file has one coarser scale; colours are written."""
    source = write(tmp_path / "a.mp4", counting(5), sound="aac")
    maps = [np.full((32, 48), 20 + i / 3, np.float32) for i in range(5)]
    maps[1][5, 5], maps[2][0, 0] = 0.0001, np.inf
    maps[when][1, 1] = farthest
    given = iter(maps)
    out = {tmp_path / "b.mkv": "depth16", tmp_path / "b.mp4": "color"}
    (tmp_path / "b.mkv").write_bytes(b"an older file")
    report = process(source, out, lambda f: [next(given) for _ in f], metric=True)
    assert report.notes == [
        f"depth16: {farthest}.0 m at {float(when / NTSC):.2f} s are beyond 65.535 m: the file has "
        f"1/{scale} m"
    ]
    kind, got = read_depth(tmp_path / "b.mkv")
    got = list(got)
    assert len(got) == 5 and Reader(tmp_path / "b.mkv").info.audio == 1
    times = [float(t - got[0][0]) for t, _ in got]
    np.testing.assert_allclose(times, np.arange(5) / float(NTSC), atol=1.1e-3)
    sound = sound_packets(tmp_path / "b.mkv")[1][0] - sound_packets(source)[1][0]
    assert float(got[0][0]) == pytest.approx(sound, abs=1.1e-3), "both moved alike"
    for (_, values), expected in zip(got, maps, strict=True):
        wanted = np.where(np.isfinite(expected), expected, 0)
        np.testing.assert_allclose(values, wanted, atol=1.01 / scale)
    assert len(list(Reader(tmp_path / "b.mp4"))) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mkv", "b.mp4"]


def test_relative_maps_keep_one_scale(tmp_path):
    source = write(tmp_path / "a.mp4", counting(5))
    maps = [np.full((32, 48), 1.0, np.float32) * (1 + i) for i in range(5)]
    maps[0][0, 0], maps[3][0, 0], maps[4][0, 0] = 2, 20, -1
    given = iter(maps)
    out = {tmp_path / "b.mkv": "depth16"}
    report = process(source, out, lambda f: [next(given) for _ in f], smooth=False)
    kind, got = read_depth(tmp_path / "b.mkv")
    assert kind == "relative inverse depth"
    for (_, values), expected in zip(got, maps, strict=True):
        # 65535 steps over 8 times the first frame's largest value
        np.testing.assert_allclose(values, np.clip(expected, 0, 16), atol=16 / 65535)
    assert ["1 values nearer" in report.notes[0], "1 values below 0" in report.notes[1]] == [
        True
    ] * 2
    with pytest.raises(VideoError, match="not a depth16 video"):
        read_depth(source)


def test_styles_in_one_pass(tmp_path):
    frames = list(counting(7))
    source = write(tmp_path / "a.mp4", frames)
    seen, sizes = [], []

    def predict(batch):
        sizes.append(len(batch))
        return inverse(batch)

    out = {tmp_path / f"{s}.mkv": s for s in process_lib.STYLES}
    report = process(
        source, out, predict, batch_size=3, progress=lambda *a: seen.append(a), limits=(0.5, 3)
    )
    assert sizes == [3, 3, 1] and seen == [(i, 7) for i in range(1, 8)]
    assert report.frames == 7 and report.rate == pytest.approx(float(NTSC))
    both = next(iter(Reader(tmp_path / "side-by-side.mkv"))).image
    colour = next(iter(Reader(tmp_path / "color.mkv"))).image
    assert both.shape == (32, 2 * 48 + process_lib.GAP, 3)
    near(both[:, :48], frames[0], 12)  # 4:2:0
    near(both[:, -48:], colour, 12)


def test_flicker_is_measured_and_cuts_are_told(tmp_path):
    """Two scenes that stand still, seen by a network whose scale pulses."""
    size = 112
    scenes = [render("A", 1, index, size) for index in (0, 1)]
    disparities = [disparity_of(scene | {"valid": ~scene["sky"]}) for scene in scenes]
    frames = [scenes[k // 10]["image"] for k in range(20)]
    source = write(tmp_path / "a.mp4", frames, rate=Fraction(25))
    calls = iter(range(100))

    def predict(batch):
        maps = []
        for _ in batch:
            k = next(calls) % 20
            pulse = 1 + 0.2 * (k % 2)
            maps.append(np.float32(pulse) * disparities[k // 10])
        return maps

    limits: list[tuple[float, float]] = []

    def paint(values, given):
        limits.append(given)
        return np.zeros((*values.shape, 3), np.uint8)

    out = {tmp_path / "b.mp4": "color"}
    on = process(source, out, predict, paint=paint, batch_size=3)
    assert on.cuts == [pytest.approx(0.4)]
    assert on.flicker_after < on.flicker_before / 10  # nineteen twentieths are taken out
    # one range for each scene, but for what the twentieth moves
    for part in (limits[:10], limits[10:]):
        assert np.ptp(part, axis=0).max() < 0.02 * np.max(part)
    assert abs(limits[0][1] / limits[10][1] - 1) > 0.02
    off = process(source, out, predict, smooth=False, batch_size=3)
    assert off.flicker_after == off.flicker_before and off.cuts == on.cuts
    # of metres the temporal alignment error: 1.2 to 1 is .2 of the one and 1/6 of the other
    metres = process(source, out, predict, metric=True, batch_size=3)
    assert metres.flicker_after == metres.flicker_before == pytest.approx(11 / 60, rel=1e-5)
    limits.clear()
    process(source, out, predict, smooth=False, limits="image", paint=paint)
    assert limits[1][1] == pytest.approx(1.2 * limits[0][1])


def test_painting(tmp_path):
    """Near is warm whether the maps are disparity or metres; `paint` gets maps and range."""
    source = write(tmp_path / "a.mp4", counting(1))
    ramp = np.tile(np.linspace(1, 5, 48, dtype=np.float32), (32, 1))
    for metric in (False, True):
        out = tmp_path / f"{metric}.mkv"
        process(source, {out: "color"}, lambda f: [ramp], metric=metric, limits=(1, 5))
        image = next(iter(Reader(out))).image.astype(int)
        warm, cold = (image[:, :8], image[:, -8:])[:: 1 if metric else -1]
        assert (warm[..., 0] > warm[..., 2]).all() and (cold[..., 2] > cold[..., 0]).all()
    ranges = []

    def paint(values, limits):
        ranges.append(limits)
        return np.zeros((*values.shape, 3), np.uint8)

    process(source, {tmp_path / "p.mkv": "color"}, lambda f: [ramp], paint=paint)
    np.testing.assert_allclose(ranges, [np.percentile(ramp, [2, 98])])


def test_failures_leave_nothing_behind(tmp_path):
    source = write(tmp_path / "a.mp4", counting(9), sound="aac")
    (tmp_path / "b.mp4").write_bytes(b"an older file")

    def fails(batch):
        if batch[0][0, 8, 0] < 100:  # the bar has come that far
            raise KeyboardInterrupt
        return inverse(batch)

    out = {tmp_path / "b.mp4": "color", tmp_path / "c.mkv": "depth16"}
    with pytest.raises(KeyboardInterrupt):
        process(source, out, fails, batch_size=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    assert (tmp_path / "b.mp4").read_bytes() == b"an older file"
    process(source, out, inverse)
    assert len(list(Reader(tmp_path / "b.mp4"))) == 9
    for outputs, message in [
        ({}, "no output"),
        ({tmp_path / "x.mp4": "red"}, "unknown style 'red'"),
        ({tmp_path / "x.mp4": "depth16"}, r"x\.mp4: 16-bit depth is written as \.mkv"),
        ({tmp_path / "x.avi": "color"}, "written as .mp4"),
        ({tmp_path / "no" / "x.mp4": "color"}, "there is no folder"),
        ({source: "color"}, "would replace the video that is read"),
    ]:
        with pytest.raises(VideoError, match=message):
            process(source, outputs, lambda frames: pytest.fail("known before any work"))
    for predict, message in [
        (lambda f: inverse(f)[:-1], "8 maps of 9|7 maps of 8"),
        (lambda f: [np.ones((3, 4), np.float32)] * len(f), r"a map \(3, 4\) of a frame \(32, 48\)"),
    ]:
        with pytest.raises(VideoError, match=message):
            process(source, {tmp_path / "x.mp4": "color"}, predict)
    for limits in ("all", (3, 1)):
        with pytest.raises(VideoError, match="limits"):
            process(source, {tmp_path / "x.mp4": "color"}, inverse, limits=limits)
    with Writer(tmp_path / "x.mp4", height=8, width=8, rate=25) as writer:
        image = np.zeros((8, 8, 3), np.uint8)
        writer.write(0, image)
        with pytest.raises(VideoError, match="comes after a later one"):
            writer.write(0, image)
        with pytest.raises(VideoError, match=r"expected uint8 \(8, 8, 3\)"):
            writer.write(1, image[:4])
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_frames_are_let_go(tmp_path):
    """No more than two batches of frames and of maps are alive at any time."""
    source = write(tmp_path / "a.mp4", counting(60))
    alive, most = [], []

    def predict(batch):
        maps = inverse(batch)
        alive.extend(weakref.ref(x) for x in (*batch, *maps))
        most.append(sum(x() is not None for x in alive))
        return maps

    out = {tmp_path / "b.mp4": "color", tmp_path / "b.mkv": "depth16"}
    assert process(source, out, predict, batch_size=4).frames == 60
    assert max(most) <= 2 * (4 + 4)


def test_without_the_extra(monkeypatch, tmp_path):
    source = write(tmp_path / "a.mp4", counting(1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"\[video\]"):
        Reader(source)
