"""What the tests of the page share: a photo that says more than its pixels, ports, files."""

import contextlib
import json
import os
import pathlib
import socket
import struct
import tempfile

import pytest
from PIL import Image

from depth_anything_jax.inference import compilation_cache
from tests.helpers import api_models

# What a photo's file may say and no output may.
SECRET = b"Jane at 21 Secret Street"
LOGIN = ("jane", "correct horse battery")


def holiday_photo(path):
    """Writes a JPEG with a name, a place and a lens in its EXIF; gives the path."""
    image = Image.fromarray(api_models.photo(60, 80))
    exif = image.getexif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8769)[0xA405] = 26
    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", (48.0, 51.0, 29.87654)
    image.save(path, exif=exif, comment=SECRET, quality=95)
    data = path.read_bytes()
    assert SECRET in data and b"Exif" in data
    assert Image.open(path).getexif().get_ifd(0x8825)[1] == "N"
    return path


def made_of(private):
    """The files in a server's folder."""
    return [p for p in private.files.rglob("*") if p.is_file()]


def glb(path):
    """The JSON of a glTF file."""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + length])


def free_port():
    """Of this machine, a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def surroundings(folder):
    """Temporary files go into a folder of the tests', and what servers change in the process's
    environment is undone. Gradio, once imported, goes on writing where it did first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compilation_cache.VARIABLE, "")
        patch.setattr(tempfile, "tempdir", str(folder))
        before = dict(os.environ)
        yield
        os.environ.clear()
        os.environ.update(before)
