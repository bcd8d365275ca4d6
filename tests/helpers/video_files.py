"""Small videos for tests, written by PyAV itself: rates, rotation, sound, times of one's own."""

from fractions import Fraction

import av
import numpy as np

NTSC = Fraction(30000, 1001)


def write(
    path,
    frames,
    *,
    rate=NTSC,
    times=None,
    rotation=None,
    sound=None,
    codec="libx264",
    pixels="yuv444p",
    aspect=None,
    tags=None,
):
    """Frames RGB uint8; `times` in seconds; `rotation` as FFmpeg's display matrix has it, degrees
    to the left; `sound` a codec; nearly without loss where the codec is H.264."""
    path = str(path)
    frames = list(frames)
    height, width = frames[0].shape[:2]
    tick = Fraction(1, rate.numerator) if times is None else Fraction(1, 90000)
    times = [i / rate for i in range(len(frames))] if times is None else times
    with av.open(path, "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = tick
        if codec == "libx264":
            stream.codec_context.options = {"crf": "1", "bf": "2"}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        tone = container.add_stream(sound, rate=48000) if sound else None
        if tone is not None:
            tone.layout = "mono"
            _write_tone(container, tone, float(times[-1] + 1 / rate))
        for time, image in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _write_tone(container, stream, seconds):
    count = int(48000 * seconds)
    wave = (8000 * np.sin(np.arange(count) * 2 * np.pi * 440 / 48000)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.rate, frame.pts = 48000, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def sound_packets(path):
    """The bytes of every packet of the first sound track, and their times in seconds."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return [], []
        packets = [p for p in container.demux(audio=0) if p.size]
        return [bytes(p) for p in packets], [float(p.pts * p.time_base) for p in packets]


def counting(count, height=32, width=48):
    """Frames with a bright corner at the upper left and a bar that moves to the right."""
    for i in range(count):
        image = np.full((height, width, 3), 40, np.uint8)
        image[: height // 2, : width // 2] = (200, 60, 30)
        image[:, (2 * i) % width : (2 * i) % width + 4] = (30, 160, 220)
        yield image
