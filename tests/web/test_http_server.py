"""The page's server: requests as a browser or a stranger sends them."""

import io
import json
import socket
import time
import urllib.error
import urllib.request
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.web import handlers as work_lib
from depth_anything_jax.web import http_server, login, request_body, security
from depth_anything_jax.web import upload_folder as folder_lib
from tests.helpers import api_models, video_files
from tests.helpers.app_files import LOGIN, SECRET, free_port, holiday_photo, made_of, surroundings


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    with surroundings(tmp_path_factory.mktemp("tmp")):
        yield


@pytest.fixture(scope="module")
def model(environment):
    return DepthAnything(api_models.instant())


@pytest.fixture
def photo(tmp_path):
    return holiday_photo(tmp_path / "holiday photo.jpg")


@pytest.fixture(scope="module")
def server(model):
    """A server as the program starts it."""
    limits = work_lib.Limits(bytes=1_000_000, waiting=3)
    with folder_lib.Folder(600.0).open() as private:
        work = work_lib.Work(model, private, limits)
        blocks = http_server.start(work, host="127.0.0.1", port=free_port(), login=None)
        yield blocks, private
        blocks.close()


def ask(url, data=None, method=None, **headers):
    """(status, headers, body)"""
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(url, data=data, method=method, headers=names)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def upload(base, name, data):
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n--x--\r\n"
    )
    return ask(base + "gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")


def press(base, function, data, session="s1"):
    """Does what the page does for an event; gives the message of its end."""
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
    status, _, answer = ask(base + "gradio_api/queue/join", body, Content_Type="application/json")
    assert status == 200, answer
    with urllib.request.urlopen(base + f"gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream:
            if line.startswith(b"data: "):
                message = json.loads(line[6:])
                if message["msg"] == "process_completed":
                    return message
    raise AssertionError("no end")


def events(blocks):
    """{name of the function: its number}, the first of each name."""
    found = {}
    for number, event in blocks.fns.items():
        found.setdefault(event.name, number)
    return found


def test_a_request_from_upload_to_download(server, model, photo):
    blocks, private = server
    base = blocks.local_url
    status, _, answer = upload(base, photo.name, photo.read_bytes())
    assert status == 200
    path = json.loads(answer)[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    names = events(blocks)
    done = press(base, names["depth"], [file, "turbo", False, 0])
    assert done["success"], done
    _, _, pair, _, text, *_ = done["output"]["data"]
    assert "80 × 60" in text
    for shown in pair:
        data = ask(shown["url"])[2]
        assert SECRET not in data and Image.open(io.BytesIO(data)).size == (80, 60)
    done = press(base, names["files"], [None, "turbo", False, 0, 0])
    urls = [d["value"]["url"] for d in done["output"]["data"]]
    status, headers, png = ask(urls[0])
    assert status == 200 and SECRET not in png
    saved = private.files / "check.png"
    saved.write_bytes(png)
    found, own = Depth.load(saved), model(photo)
    np.testing.assert_allclose(found.depth, own.depth, atol=0.51 * np.ptp(own.depth) / 65535)


def test_a_video_and_its_cancellation(server, tmp_path, monkeypatch):
    blocks, _ = server
    base, names = blocks.local_url, events(blocks)
    clip = tmp_path / "clip.mp4"
    video_files.write(clip, list(video_files.counting(4, 56, 70)), rate=Fraction(10))
    _, _, answer = upload(base, clip.name, clip.read_bytes())
    file = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    inputs = [file, "turbo", True, False, False, 0]
    done = press(base, names["video"], inputs, "s5")
    assert done["success"] and "4 frames at 10" in done["output"]["data"][2], done
    asked = []
    monkeypatch.setattr(work_lib.Work, "cancel", lambda _, session: asked.append(session))
    done = press(base, names["cancel"], [], "s5")
    assert asked == ["s5"] and "Cancelled" in json.dumps(done["output"]["data"][1])
    file["path"] = json.loads(upload(base, "x.mp4", b"no video")[2])[0]
    gone, note, *_ = press(base, names["video"], inputs, "s5")["output"]["data"]
    assert not gone["visible"] and note["visible"] and "x.mp4" in note["value"]


def test_an_error_shows_no_path(server, photo):
    blocks, private = server
    _, _, answer = upload(blocks.local_url, "x.jpg", photo.read_bytes()[:700])
    file = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    done = press(blocks.local_url, events(blocks)["depth"], [file, "turbo", False, 0])
    gone, note = done["output"]["data"][2:4]
    assert not gone["visible"] and note["visible"], "the message stands in the place of the map"
    text = json.dumps(done)
    assert "x.jpg" in text and "Traceback" not in text and str(private.root) not in text
    # A file that is no picture is quoted, in what is shown as HTML.
    _, _, answer = upload(blocks.local_url, "x.jpg", b"<img src=x onerror=1>")
    file["path"] = json.loads(answer)[0]
    done = press(blocks.local_url, events(blocks)["depth"], [file, "turbo", False, 0], "s3")
    assert "&lt;img" in json.dumps(done) and "<img" not in json.dumps(done)


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "http://127.0.0.1:1/a.png", "https://example.org/a.png", "../x", 3]
)
def test_inputs_are_uploads_alone(server, value):
    blocks, _ = server
    body = {"fn_index": events(blocks)["depth"], "session_hash": "s2"}
    for file in (
        {"path": value, "meta": {"_type": "gradio.FileData"}},
        {"url": "x", "path": value},
    ):
        body["data"] = [file, "turbo", False, 0]
        status, _, answer = ask(
            blocks.local_url + "gradio_api/queue/join",
            json.dumps(body).encode(),
            Content_Type="application/json",
        )
        assert status == 400 and b"inputs must be uploads" in answer


def test_what_the_page_does_not_need_is_not_there(server):
    base = server[0].local_url
    for path in (
        "gradio_api/info", "gradio_api/openapi.json", "docs", "openapi.json", "monitoring",
        "gradio_api/token", "gradio_api/proxy=http://example.org", "gradio_api/runs",
        "gradio_api/file=/etc/passwd", "gradio_api/file=http://example.org/", "static/../x",
        f"gradio_api/file={server[1].files}/../empty", "gradio_api/deep_link?session_hash=s1",
        "gradio_api/custom_component/a/client/b/c", "assets/%2e%2e/%2e%2e/x.html",
    ):  # fmt: skip
        assert ask(base + path)[0] == 404, path
    for path in ("gradio_api/run/depth", "gradio_api/call/depth", "gradio_api/component_server"):
        assert ask(base + path, b"{}")[0] == 404, path
    assert ask(base, method="DELETE")[0] == 404


def test_answers_forbid_the_browser_to_look_elsewhere(server):
    status, headers, body = ask(server[0].local_url)
    assert status == 200 and "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b'"api_prefix"' in body and b"fonts.googleapis.com" not in body


def test_other_pages_and_other_names_are_refused(server):
    base = server[0].local_url
    assert ask(base, Host="evil.example:80")[0] == 421
    assert ask(base, Origin="http://evil.example")[0] == 403
    assert ask(base, Origin="null")[0] == 403
    assert ask(base, Origin=base.rstrip("/"))[0] == 200


def test_large_bodies_are_refused_before_they_are_stored(server):
    blocks, private = server
    with socket.create_connection(("127.0.0.1", blocks.server_port), 30) as line:
        line.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1100000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        assert line.recv(100).startswith(b"HTTP/1.1 413")
    before = sum(p.stat().st_size for p in made_of(private))
    many = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n\r\n' % i
        + b"x" * 200_000
        + b"\r\n"
        for i in range(8)
    )
    parts = iter([many[i : i + 65536] for i in range(0, len(many), 65536)] + [b"--x--\r\n"])
    url = blocks.local_url + "gradio_api/upload"
    try:  # without a length: sent in chunks
        assert ask(url, parts, "POST", Content_Type="multipart/form-data; boundary=x")[0] == 413
    except OSError:
        pass  # the server hung up before the rest was sent
    stored = sum(p.stat().st_size for p in made_of(private)) - before
    assert stored <= 1_000_000 + security._MULTIPART


def test_a_password_opens_and_guessing_does_not(model):
    limits = work_lib.Limits()
    with folder_lib.Folder(600.0).open() as private:
        work = work_lib.Work(model, private, limits)
        blocks = http_server.start(work, host="127.0.0.1", port=free_port(), login=LOGIN)
        try:
            base = blocks.local_url
            page = ask(base)[2]
            assert (
                b'"auth_required":true' in page.replace(b" ", b"") and b"photo-upload" not in page
            )
            assert ask(base + "config")[0] == 401 and upload(base, "a.jpg", b"x")[0] == 401
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            form = "username={}&password={}".format(*LOGIN).replace(" ", "+").encode()
            assert opener.open(base + "login", form).status == 200
            assert b"photo-upload" in opener.open(base).read()
            session = "gradio_api/heartbeat/s1"
            for path, data in (("cancel", b"{}"), ("reset", b'{"event_id": "x"}')):
                answer = ask(base + f"gradio_api/{path}", data, Content_Type="application/json")
                assert answer[0] == 401, path
            assert ask(base + session)[0] == 401
            assert ask(base + session, Cookie="access-token-x=1; access-token=1")[0] == 401
            with opener.open(base + session) as beat:
                assert beat.status == 200
            wrong = [ask(base + "login", b"username=jane&password=x")[0] for _ in range(11)]
            assert wrong == [400] * 10 + [429]
            assert opener.open(base).status == 200  # who is in stays in
        finally:
            blocks.close()


def test_wrong_passwords_block_the_network_that_they_come_from(monkeypatch):
    wrong = login.WrongPasswords()
    for _ in range(login.WRONG):
        assert not wrong.too_many("203.0.113.5") and not wrong.too_many("2001:db8::1")
        wrong.add("203.0.113.5")
        wrong.add("2001:db8::1")
    assert wrong.too_many("203.0.113.5") and wrong.too_many("::ffff:203.0.113.5")
    assert wrong.too_many("2001:db8::ffff")  # of the same 64 bits
    for other in ("203.0.113.6", "2001:db8:0:1::1", "127.0.0.1", ""):
        assert not wrong.too_many(other)
    wrong.take_back("203.0.113.5")  # the last one was right
    assert not wrong.too_many("203.0.113.5")
    now = login.time.monotonic()
    monkeypatch.setattr(login.time, "monotonic", lambda: now + 61)
    assert not wrong.too_many("2001:db8::1")
    monkeypatch.setattr(login, "NETWORKS", 3)
    for i in range(9):
        wrong.add(f"10.0.0.{i}")
    assert len(wrong._times) == 3


@pytest.mark.parametrize(
    "change",
    [{"fn_index": n} for n in (9999, -1, None, "x", True, 1.5, 10**30, [1])]
    + [{"session_hash": s} for s in (None, "", 3)],
    ids=str,
)
def test_odd_events_are_refused_not_crashed_on(server, change):
    base, names = server[0].local_url, events(server[0])
    body = {"fn_index": names["depth"], "session_hash": "s4", "data": [None, "turbo", False, 0]}
    status, _, answer = ask(
        base + "gradio_api/queue/join",
        json.dumps(body | change).encode(),
        Content_Type="application/json",
    )
    assert status == 400 and next(iter(change)).encode() in answer
    for other in (b"[]", b"3", b"null", b"", b"[" * 100_000):
        answer = ask(base + "gradio_api/queue/join", other, Content_Type="application/json")
        assert answer[0] == 400


@pytest.mark.parametrize("form", ['name="files"', 'name="files"; filename=".."', 'name=""', "x"])
def test_an_odd_upload_is_refused_and_leaves_nothing(server, form):
    blocks, private = server
    before = set(made_of(private))
    body = f"--x\r\nContent-Disposition: form-data; {form}\r\n\r\nabc\r\n--x--\r\n".encode()
    status, _, answer = ask(
        blocks.local_url + "gradio_api/upload",
        body,
        Content_Type="multipart/form-data; boundary=x",
    )
    assert status == 400 or json.loads(answer) == []
    until(lambda: set(made_of(private)) <= before)  # older ones may go meanwhile


def part_of_an_upload(blocks, length=900_000, sent=300_000):
    """Opens a connection and sends a part of an upload; gives the connection."""
    line = socket.create_connection(("127.0.0.1", blocks.server_port), 60)
    line.sendall(
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: "
        'form-data; name="files"; filename="a.jpg"\r\n\r\n'.encode()
        + b"x" * sent
    )
    return line


def until(what):
    for _ in range(6000):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_broken_off_upload_is_deleted_at_once(server):
    blocks, private = server
    line = part_of_an_upload(blocks)
    until(lambda: list(private.files.glob("tmp*")))
    line.close()
    until(lambda: not list(private.files.glob("tmp*")))
    assert private._uploads == []


def test_a_slow_upload_ends(server, monkeypatch):
    blocks, private = server
    monkeypatch.setattr(request_body, "PATIENCE", 0.3)
    with part_of_an_upload(blocks) as silent:
        assert silent.recv(100).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(request_body, "SLOWEST", 1e9)
    with part_of_an_upload(blocks) as slow:
        time.sleep(0.2)
        slow.sendall(b"x")
        time.sleep(0.2)
        slow.sendall(b"x")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    until(lambda: not list(private.files.glob("tmp*")))


def test_the_folder_has_an_end(server, photo, monkeypatch):
    blocks, private = server
    (private.new() / "map.png").write_bytes(b"of another test they may be gone by now")
    monkeypatch.setattr(private, "max_bytes", 1)
    status, _, answer = upload(blocks.local_url, "x.jpg", photo.read_bytes())
    assert status == 507 and b"cleared after 10 minutes" in answer
    with pytest.raises(folder_lib.FolderFull):
        private.new()


def test_the_page_is_of_parts_that_ask_for_no_path(server):
    """No file explorer, no component of the web, no event that others are offered."""
    blocks, _ = server
    kinds = {type(b).__name__.lower() for b in blocks.blocks.values()}
    assert not kinds & {"fileexplorer", "html", "code", "textbox", "image", "audio"}
    assert {"imageslider", "model3d", "file", "video"} <= kinds
    assert {f.api_visibility for f in blocks.fns.values()} == {"private"}
    assert blocks.max_file_size == 1_000_000 and blocks._queue.max_size == 3
    assert not blocks.api_open and not blocks.share and not blocks.analytics_enabled
    assert all(b.elem_id != "photo-note" or b.sanitize_html for b in blocks.blocks.values())
    heavy = [f for f in blocks.fns.values() if f.name in ("depth", "video")]
    assert {(f.concurrency_id, f.concurrency_limit) for f in heavy} == {("network", 1)}
    style = blocks.theme_css.replace("http://www.w3.org/2000/svg", "")  # a name, in data: pictures
    assert "http" not in style and "@font-face" not in style and "system-ui" in style
