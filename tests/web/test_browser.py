"""The program in a real browser: Chromium without a screen. Nightly."""

import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import jax
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.data import scenes
from depth_anything_jax.inference import compilation_cache
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.video import depth16
from tests.helpers import api_models, video_files
from tests.helpers.app_files import free_port, holiday_photo

pytestmark = pytest.mark.nightly
# Chromium, and what it needs to draw in three dimensions without a graphics card.
BROWSER = ("chromium", "chromium-browser", "google-chrome")
DRAWS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the demo's size, whose maps are smooth: random ones are all edges, of which
    no points are made."""
    folder, found = tmp_path_factory.mktemp("weights") / "model", api_models.found()
    last = found.params["decoder"]["output_conv2_2"]
    last["kernel"], last["bias"] = 0.004 * last["kernel"], 1 + 0 * last["bias"]
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    params = jax.tree.map(jax.numpy.asarray, found.params)
    orbax_io.save_params(folder, params, {**meta, "licence": "apache-2.0", "licence_chain": []})
    return folder


@pytest.fixture
def program(weights, tmp_path):
    """The address of the running program; afterwards it is told to end, and must leave nothing."""
    port, here = free_port(), tmp_path / "tmp"
    here.mkdir()
    running = subprocess.Popen(
        [sys.executable, "-m", "depth_anything_jax.app", f"--checkpoint={weights}",
         f"--port={port}", "--max_seconds=0.5"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(here),
             compilation_cache.VARIABLE: ""},
    )  # fmt: skip
    try:
        lines = iter(running.stdout.readline, "")
        assert any("Ctrl-C ends it" in line for line in lines), "it did not start"
        assert [p.name.partition("-app-")[0] for p in here.iterdir()] == ["depth-anything"]
        yield f"http://127.0.0.1:{port}/"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, running.stdout.read()
        assert not list(here.iterdir()), "something stays in the temporary folder"
    finally:
        running.kill()
        running.stdout.close()


@pytest.fixture
def tab(program):
    """A page in Chromium, and what it asked for and complained of."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    browser = next(filter(None, map(shutil.which, BROWSER)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSER)} is installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=DRAWS)
        context = chromium.new_context(
            viewport={"width": 1180, "height": 920}, accept_downloads=True
        )
        asked, complaints = [], []
        context.on("request", lambda request: asked.append(request.url))
        context.on(
            "response",
            lambda answer: (
                complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
            ),
        )
        page = context.new_page()
        page.set_default_timeout(120_000)  # a click waits for drawing, which is slow on one core
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.goto(program)
        page.get_by_role("heading", name="Depth Anything").wait_for(timeout=60_000)
        yield page, asked, complaints
        chromium.close()


def until(page, expression):
    """Waits for it to hold. Playwright's own way is to evaluate text, which the page forbids."""
    for _ in range(120):
        if page.evaluate(expression):
            return
        time.sleep(0.5)
    raise AssertionError(f"never: {expression}")


def strangers(asked, page):
    """Requests that went elsewhere than to the server."""
    return [u for u in asked if not u.startswith((page.url, f"blob:{page.url}", "data:"))]


def pixels(page, selector):
    data = page.locator(selector).screenshot()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def appear(drawn):
    """What is drawn, once points are seen."""
    for _ in range(60):
        seen, share = drawn()
        if share > 0.02:
            return seen
        time.sleep(0.5)
    raise AssertionError("no points are seen")


def test_a_photo(tab, weights, tmp_path):
    page, asked, complaints = tab
    shots = pathlib.Path(os.environ.get("DEPTH_ANYTHING_SCREENSHOTS", tmp_path))
    photo = tmp_path / "scene.png"
    scene = np.asarray(scenes.SceneSource("A", 12, seed=3, size=336)[4]["image"])
    Image.fromarray(scene).save(photo)

    page.set_input_files("#photo-upload input[type=file]", photo)
    page.wait_for_selector("#photo-slider img", timeout=120_000)
    page.wait_for_selector("#photo-png16:not([disabled])", timeout=60_000)
    until(
        page,
        "[...document.querySelectorAll('#photo-slider img')].every(i => i.naturalWidth == 336)",
    )
    page.screenshot(path=shots / "depth.png")

    # The slider: where it stood in the middle, photo or depth are seen when it is moved.
    half = pixels(page, "#photo-slider")
    box = page.locator("#photo-slider").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 120, middle[1], steps=8)
    page.mouse.up()
    page.mouse.move(0, 0)
    changed = np.abs(pixels(page, "#photo-slider") - half).max(-1) > 30
    left, right = np.array_split(changed, 2, axis=1)
    assert left.mean() > 0.03 and right.mean() < 0.02

    with page.expect_download() as download:
        page.click("#photo-png16")
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "scene.depth.png"
    found, own = Depth.load(saved), DepthAnything.from_pretrained(weights)(photo)
    assert found.kind == own.kind
    # 16 bits, and programs of two processes that were compiled for 1 and 8 devices
    np.testing.assert_allclose(found.depth, own.depth, atol=1e-4 * np.ptp(own.depth))

    page.get_by_role("tab", name="3-D").click()
    assert "the shape in space is unknown" in page.inner_text("#photo-points")
    page.check("#photo-assume input")
    page.wait_for_selector("#photo-cloud canvas", timeout=60_000)
    until(page, "document.querySelector('#photo-points').innerText.includes('points')")

    def drawn():
        seen = pixels(page, "#photo-cloud canvas")[60:-20, 20:-20]  # without buttons and corners
        return seen, (np.abs(seen - seen[0, 0]).max(-1) > 30).mean()

    before = appear(drawn)
    page.screenshot(path=shots / "cloud.png")
    box = page.locator("#photo-cloud canvas").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 220, steps=5)
    page.mouse.up()
    time.sleep(2)
    after, share = drawn()
    assert share > 0.005 and (np.abs(after - before).max(-1) > 30).mean() > 0.01, "it turned"

    # A canvas that is filled while its tab is closed would stay empty.
    page.get_by_role("tab", name="Depth", exact=True).click()
    page.locator("#photo-upload").get_by_label("Clear").click()
    page.wait_for_selector("#photo-glb[disabled]")
    page.set_input_files("#photo-upload input[type=file]", photo)
    page.wait_for_selector("#photo-glb:not([disabled])", timeout=60_000)
    page.get_by_role("tab", name="3-D").click()
    appear(drawn)

    # A phone: nothing is wider than the screen.
    page.get_by_role("tab", name="Depth", exact=True).click()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=shots / "phone.png", full_page=True)

    # Only this server was asked; what Chromium without a graphics card says of it is no fault.
    assert len(asked) > 20 and not strangers(asked, page)
    assert not [c for c in complaints if not re.search("WebGPU|GPU stall", c)]


def test_a_video_and_a_broken_photo(tab, tmp_path):
    page, asked, _ = tab
    clip = tmp_path / "clip.mp4"
    video_files.write(clip, list(video_files.counting(12, 64, 80)), rate=Fraction(10))
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#video-upload input[type=file]", clip)
    until(page, "document.querySelector('#video-upload').innerText.includes('clip')")
    page.check("text=Also 16-bit depth")
    page.click("#video-start")
    page.wait_for_selector("#video-raw:not([disabled])", timeout=120_000)
    assert "5 frames at 10" in page.inner_text("#video-about"), "--max_seconds=0.5"
    until(
        page,
        "(v => v && v.readyState >= 2 && v.videoWidth == 80)"
        "(document.querySelector('#video-shown video'))",
    )
    with page.expect_download() as download:
        page.click("#video-raw")
    mkv = tmp_path / "depth.mkv"
    download.value.save_as(mkv)
    kind, maps = depth16.read_depth(mkv)
    assert kind == "relative inverse depth" and len(list(maps)) == 5

    page.get_by_role("tab", name="Photo").click()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(holiday_photo(tmp_path / "a.jpg").read_bytes()[:700])
    page.set_input_files("#photo-upload input[type=file]", broken)
    message = page.get_by_test_id("toast-body")
    message.wait_for(timeout=60_000)
    text = message.inner_text()
    assert "broken.jpg" in text and "/" not in text and "Traceback" not in text
    assert not page.locator("#photo-png16:not([disabled])").count()
    assert not strangers(asked, page)
