"""Request filter: ASGI middleware that restricts which requests reach Gradio; and passwords.

Gradio answers about sixty routes, of which this page uses a dozen: the others read files, fetch
addresses for the caller, or describe the program. Routes that are not on the list are answered with
404. The filter also refuses
  - requests with a host name other than this machine's, while only this machine is served: another
    site that lets its own name resolve to this machine (DNS rebinding) would otherwise get in;
  - requests sent by pages of other servers;
  - bodies that are too large, before they are stored;
  - inputs that name a file the server did not receive as an upload, or an address to fetch;
  - more than a few passwords per minute.
Every response forbids the browser to load anything from other servers (Content-Security-Policy).
"""

from __future__ import annotations

import collections
import ipaddress
import json
import os
import pathlib
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

from depth_anything_jax.web.upload_folder import Folder

_API = "/gradio_api"
_FILE = f"{_API}/file="
_ROUTES = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/logout"
        r"|/(assets|static)/[\w./-]+"
        rf"|{_API}/(theme\.css|startup-events|upload_progress|queue/data|heartbeat/\w+)"
        rf"|{_FILE}.+"
    ),
    "POST": re.compile(rf"/login/?|{_API}/(upload|queue/join|cancel|reset)/?"),
}
_ROUTES["HEAD"] = _ROUTES["GET"]
_MAX_BODY = 1 << 18  # bytes of a body that is not an upload: numbers and names
_MULTIPART = 1 << 16  # bytes of an upload beside its file
PASSWORDS = 10  # per minute, of all callers together
# The page's scripts are inline; Babylon compiles WebAssembly and creates workers from blobs.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at this name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


VARIABLE = "DEPTH_ANYTHING_AUTH"
SHORTEST = 12  # minimum length of a password, as it can be guessed over the network


def credentials(host: str, file: str | None) -> tuple[str, str] | None:
    """Reads user and password; None where none is given and none is needed.

    Args:
      host: name or address that the server will listen at.
      file: holds user:password on one line; None: the environment variable VARIABLE, if set.

    Raises:
      ValueError: other machines are served and there is no password; or it is too short, or other
        users of this machine can read it.
    """
    if file is not None:
        path = pathlib.Path(file).expanduser()
        if not path.is_file():
            raise ValueError(
                f"--auth={file.partition(':')[0]}…: no such file. Name a file that holds "
                f"user:password, because all users of this machine can see command lines; or set "
                f"{VARIABLE}"
            )
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ValueError(f"--auth={file}: others can read it; chmod 600 {file}")
        text, where = path.read_text(encoding="utf-8"), f"--auth={file}"
    else:
        text, where = os.environ.get(VARIABLE, ""), VARIABLE
    if not text.strip():
        if is_loopback(host) and file is None:
            return None
        raise ValueError(
            f"--host={host} serves other machines, which requires a password: put "
            f"user:password into a file and name it with --auth, or set {VARIABLE}"
        )
    user, colon, password = text.strip().partition(":")
    if not (user and colon) or len(password) < SHORTEST:
        raise ValueError(
            f"{where}: must be user:password, with a password of {SHORTEST} characters or more"
        )
    return user, password


class Refused(Exception):
    """Raised for a refused request: HTTP status and message."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class RequestFilter:
    """ASGI middleware that forwards allowed requests and refuses all others.

    Args:
      app: the wrapped application.
      folder: of uploads and results.
      max_bytes: of one upload.
      local: whether the server serves this machine only.
    """

    def __init__(self, app: Any, *, folder: Folder, max_bytes: int, local: bool):
        self.app, self.folder, self.max_bytes, self.local = app, folder, max_bytes, local
        self._passwords: collections.deque[float] = collections.deque(maxlen=PASSWORDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no web sockets
            return

        begun = False

        async def sent(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                kept = [(k, v) for k, v in message["headers"] if k.lower().decode() not in _HEADERS]
                kept += [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": kept}
            await send(message)

        try:
            passed = await self._check(scope, receive)
            await self.app(scope, passed, sent)
        except Refused as refused:
            if begun:
                raise
            body = json.dumps({"detail": str(refused)}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await sent(
                {"type": "http.response.start", "status": refused.status, "headers": headers}
            )
            await sent({"type": "http.response.body", "body": body})

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        """Checks a request; returns the function that receives its body."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        if self.local and not is_loopback(name):
            raise Refused(421, "this server serves this machine only, as localhost or 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            raise Refused(403, "requests from other pages are refused")
        method, path = scope["method"], scope["path"]
        known = _ROUTES.get(method)
        if known is None or not known.fullmatch(path) or ".." in path.split("/"):
            raise Refused(404, "not found")
        if path.startswith(_FILE) and not self.folder.holds(path.removeprefix(_FILE)):
            raise Refused(404, "no such file, or it was cleared")
        if method != "POST":
            return receive
        if path.startswith("/login"):
            now = time.monotonic()
            if len(self._passwords) == PASSWORDS and now - self._passwords[0] < 60:
                raise Refused(429, "too many passwords; wait a minute")
            self._passwords.append(now)
        upload = path.startswith(f"{_API}/upload")
        most = self.max_bytes + _MULTIPART if upload else _MAX_BODY
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > most:
            raise Refused(413, f"too large: at most {self.max_bytes / 1e6:.0f} MB")
        if not path.startswith(f"{_API}/queue/join"):
            return _counted(receive, most)
        body = await _whole(_counted(receive, most))
        self._check_inputs(body)
        return _again(body, receive)

    def _check_inputs(self, body: bytes) -> None:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "not JSON") from error
        for value in _files(found):
            if not isinstance(value, str) or not self.folder.holds(value):
                raise Refused(400, "inputs must be uploads, not server paths or addresses")


def _files(value: Any) -> list[Any]:
    """Collects the files that inputs name: the "path" of every object."""
    found, queue = [], [value]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            found += [item["path"]] if item.get("path") is not None else []
            queue += item.values()
        elif isinstance(item, list):
            queue += item
    return found


def _counted(receive: Receive, most: int) -> Receive:
    """Wraps `receive` so that it refuses a body longer than `most` bytes."""
    count = 0

    async def counted() -> dict[str, Any]:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise Refused(413, f"too large: at most {most / 1e6:.1f} MB")
        return message

    return counted


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "the request is incomplete")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that yields a body read before, then continues with the original."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict[str, Any]:
        return left.pop() if left else await receive()

    return again
