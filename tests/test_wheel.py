"""The wheel in a fresh environment of each Python: installed, started, used on a picture."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.helpers.notebook_runs import ROOT, environment, make_checkout, save_model


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the files alone that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = make_checkout(folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(source)], check=True)
    shutil.rmtree(source)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_fresh_environment_makes_a_first_map(version, wheel, tmp_path, monkeypatch, request):
    """`pytest -m nightly -s tests/test_wheel.py` shows the times and the space on the disk."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("DEPTH_ANYTHING_CACHE", str(tmp_path / "compiled"))
    place = tmp_path / "environment"
    request.addfinalizer(lambda: shutil.rmtree(place, ignore_errors=True))  # a gigabyte
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    python, start, before = environment(place, version), time.monotonic(), os.times()
    pinned = ["--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *pinned)
    installed, used = time.monotonic() - start, os.times()
    packages = pathlib.Path(run(python, "-c", "import numpy; print(numpy.__path__[0])").strip())
    size = sum(f.stat().st_blocks * 512 for f in packages.parent.rglob("*") if f.is_file())
    assert not (packages.parent / "tensorflow_datasets").exists()  # the extra [train]
    assert not (packages.parent / "torch").exists()
    listed = run(python, "-m", "depth_anything_jax.configs")
    assert "\n  student " in listed and str(packages.parent) in listed
    run(python, "-m", "depth_anything_jax.train", "--help")

    model = save_model(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(elsewhere / "photo.png")
    start = time.monotonic()
    program = str(pathlib.Path(python).with_name("depth-anything"))
    run(program, "photo.png", "--out=maps", f"--checkpoint={model}", "--size=112")
    mapped = time.monotonic() - start
    assert Image.open(elsewhere / "maps" / "photo.color.png").size == (80, 60)
    assert Image.open(elsewhere / "maps" / "photo.depth.png").size == (80, 60)
    cpu = used.children_user + used.children_system - before.children_user - before.children_system
    print(
        f"Python {version}: installed in {installed:.0f} s ({cpu:.0f} s of CPU time), "
        f"{size / 2**20:.0f} MB; a first map {mapped:.0f} s later"
    )
