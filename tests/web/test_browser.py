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


SCREENS = {
    "desktop": {"width": 1180, "height": 920},
    "phone": {"width": 390, "height": 844},
}
CONTRAST = (pathlib.Path(__file__).parents[1] / "helpers" / "contrast.js").read_text()


@pytest.fixture
def tab(program, request):
    """A page in Chromium, and what it asked for and complained of."""
    screen, theme = getattr(request, "param", ("desktop", "light"))
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    browser = next(filter(None, map(shutil.which, BROWSER)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSER)} is installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=DRAWS)
        context = chromium.new_context(
            viewport=SCREENS[screen], color_scheme=theme, accept_downloads=True
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


def screenshots(tmp_path):
    """Where they are kept to be looked at."""
    return pathlib.Path(os.environ.get("DEPTH_ANYTHING_SCREENSHOTS", tmp_path))


def readable(page):
    """Fails where a text's contrast is below 4.5 to 1, or a picture has no text in its place."""
    page.wait_for_timeout(600)  # colours fade
    count, bad = page.evaluate(CONTRAST)
    assert count > 10 and not bad, bad
    assert page.evaluate("[...document.images].filter(i => i.offsetWidth && !i.alt).length") == 0


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
    shots = screenshots(tmp_path)
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
    assert "the shape in space is unknown" in page.inner_text("#photo-cloud-text")
    page.check("#photo-assume input")
    page.wait_for_selector("#photo-cloud canvas", timeout=60_000)
    until(page, "document.querySelector('#photo-cloud-text').innerText.includes('points')")

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
    until(page, "document.querySelector('#photo-note')?.innerText.includes('broken.jpg')")
    message = page.locator("#photo-note")
    text, box = message.inner_text(), message.bounding_box()
    head = page.locator("#head").bounding_box()
    assert box["y"] > head["y"] + head["height"] and box["height"] > 200, "in the map's place"
    assert not page.get_by_test_id("toast-body").count()
    page.screenshot(path=screenshots(tmp_path) / "broken.png")
    assert "broken.jpg" in text and "/" not in text and "Traceback" not in text
    assert not page.locator("#photo-png16:not([disabled])").count()
    assert not strangers(asked, page)


@pytest.mark.parametrize(
    "tab",
    [(s, t) for s in SCREENS for t in ("light", "dark")],
    indirect=True,
    ids=lambda v: "-".join(v),
)
def test_values_metres_points_and_words(tab, tmp_path, request):
    page, asked, _ = tab
    name, shots = request.node.callspec.id, screenshots(tmp_path)
    readable(page)
    assert "Depth Anything V2 demo" in page.inner_text("#head")
    page.get_by_role("button", name="Rendered street").click()
    page.wait_for_selector("#photo-png16:not([disabled])", timeout=120_000)
    assert page.inner_text("#photo-png16") == "Download 16-bit PNG"
    assert page.locator("text=Reverse colours").count()
    until(page, "document.querySelectorAll('#photo-slider img[alt]:not([alt=\"\"])').length == 2")

    # The list of colours closes with the focus: by Tab, and by a click where none is taken.
    listed = page.locator("ul[role=listbox]")
    for leave in (lambda: page.keyboard.press("Tab"), lambda: page.click("#head h1"), None):
        page.click("#photo-colours input")
        listed.wait_for()
        assert "Spectral (near = warm)" in listed.inner_text()
        if leave is None:
            readable(page)
            page.locator("#photo-slider img").first.click(position={"x": 30, "y": 30}, force=True)
        else:
            leave()
        listed.wait_for(state="detached")

    # A click writes its place into the fields, reads the value, and is marked.
    page.fill("#column-1 input", "")
    page.fill("#row-1 input", "")
    box = page.locator("#photo-slider img").first.bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    for x, y in ((0.25, 0.9), (0.75, 0.2)):
        page.mouse.click(left + x * side, top + y * side)
        page.wait_for_timeout(300)
    found = [float(page.input_value(f"#{w}-{i} input")) for i in (1, 2) for w in ("column", "row")]
    np.testing.assert_allclose(found, 448 * np.array([0.25, 0.9, 0.75, 0.2]), atol=3)
    until(page, "(t => t.includes('Point 1') && t.includes('Point 2'))"
                "(document.querySelector('#photo-values').innerText)")  # fmt: skip
    values = [float(v) for v in re.findall(r": ([\d.]+) \(", page.inner_text("#photo-values"))]
    until(page, "document.querySelectorAll('.marker').length == 2")
    spot = page.locator("#marker-1").bounding_box()
    assert abs(spot["x"] + spot["width"] / 2 - left - 0.25 * side) < 3
    page.screenshot(path=shots / f"values-{name}.png", full_page=True)

    # Two distances make metres: colour bar, sliders, text, points without an assumption.
    assert values[0] != values[1]
    metres = (3, 3.3) if values[0] > values[1] else (3.3, 3)
    for i in (1, 2):
        page.fill(f"#distance-{i} input", str(metres[-i]))
    page.click("#photo-convert")
    until(page, "document.querySelector('#photo-values').innerText.includes('exchange them')")
    for i in (1, 2):
        page.fill(f"#distance-{i} input", str(metres[i - 1]))
    page.click("#photo-convert")
    page.wait_for_selector("#photo-near", timeout=60_000)
    until(page, "document.querySelector('#photo-about').innerText.includes('2 known distances')")
    told = page.inner_text("#photo-values")
    assert all(f"{m} m" in told for m in metres)
    readable(page)
    page.wait_for_selector("#photo-glb:not([disabled])", timeout=60_000)
    page.screenshot(path=shots / f"metres-{name}.png", full_page=True)
    errors = page.locator(".toast-body")
    assert errors.count() == 0, errors.all_inner_texts()
    page.get_by_role("tab", name="3-D").click()
    canvas = page.locator("#photo-cloud canvas")
    canvas.wait_for(timeout=60_000)
    canvas.scroll_into_view_if_needed()  # what is out of sight is not drawn
    shape = canvas.bounding_box()
    assert shape["width"] / shape["height"] == pytest.approx(4 / 3, rel=0.02)

    def drawn():
        seen = pixels(page, "#photo-cloud canvas")[50:-10, 10:-10]
        return seen, (np.abs(seen - seen[0, 0]).max(-1) > 30).mean()

    seen = appear(drawn)
    rows, columns = np.nonzero(np.abs(seen - seen[0, 0]).max(-1) > 30)
    page.screenshot(path=shots / f"points-{name}.png")
    middle = np.array([rows.mean() / seen.shape[0], columns.mean() / seen.shape[1]])
    assert (np.abs(middle - 0.5) < 0.2).all(), "centred"
    assert np.ptp(columns) > 0.5 * seen.shape[1], "as wide as the photo was"
    readable(page)
    if name.startswith("phone"):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not strangers(asked, page)

    page.get_by_role("tab", name="Video").click()
    readable(page)
    page.screenshot(path=shots / f"video-{name}.png", full_page=True)


def test_a_video_is_cancelled(tab, tmp_path):
    page, _, _ = tab
    clip = tmp_path / "clip.mp4"
    video_files.write(clip, list(video_files.counting(12, 640, 800)), rate=Fraction(10))
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#video-upload input[type=file]", clip)
    until(page, "document.querySelector('#video-upload').innerText.includes('clip')")
    page.click("#video-start")
    page.wait_for_selector("#video-cancel:not([disabled])")
    page.click("#video-cancel")
    until(page, "document.querySelector('#video-note')?.innerText.includes('Cancelled')")
    assert page.locator("#video-cancel[disabled]").count()
    page.click("#video-start")  # and is made after all
    until(page, "document.querySelector('#video-about').innerText.includes('5 frames')")
