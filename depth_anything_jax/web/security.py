"""Who may ask the server for what: an ASGI layer in front of Gradio's own routes.

Gradio answers some sixty routes, of which this page uses a dozen: the others read files, fetch
addresses for the caller, or tell about the program. Here what is not on the list does not exist.
Beyond that, refused are
  - requests under another name than this machine's, while only this machine is served: a page
    elsewhere that lets its own name point here (DNS rebinding) would otherwise be let in;
  - requests that pages of other servers send;
  - bodies that are too large, before they are stored;
  - inputs that name a file the server did not receive as an upload, or an address to fetch;
  - more than a few passwords a minute.
Every answer forbids the browser to load anything from elsewhere (Content-Security-Policy).
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
_WORDS = 1 << 18  # bytes of a body that is no upload: numbers and names
_FRAME = 1 << 16  # bytes of an upload around its file
PASSWORDS = 10  # a minute, of all callers together
# The page's own scripts stand in its HTML; Babylon compiles WebAssembly and makes workers of blobs.
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
SHORTEST = 12  # characters of a password that a network may try


def credentials(host: str, file: str | None) -> tuple[str, str] | None:
    """User and password, or None where none is asked for and none is needed.

    Args:
      host: name or address that the server will listen at.
      file: that holds user:password on one line; None: the environment variable VARIABLE, if set.

    Raises:
      ValueError: others than this machine are served and there is no password; one that is too
        short, or that other users of this machine can read.
    """
    if file is not None:
        path = pathlib.Path(file).expanduser()
        if not path.is_file():
            raise ValueError(
                f"--auth={file.partition(':')[0]}…: no such file. It names a file that holds "
                f"user:password, as all users of this machine see a command line; or set {VARIABLE}"
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
            f"--host={host} lets others use this machine, which needs a password: put "
            f"user:password into a file and name it with --auth, or set {VARIABLE}"
        )
    user, colon, password = text.strip().partition(":")
    if not (user and colon) or len(password) < SHORTEST:
        raise ValueError(f"{where}: user:password, with {SHORTEST} characters or more of password")
    return user, password


class Refused(Exception):
    """A request that is not answered: status and what to say."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Gate:
    """An ASGI application around another.

    Args:
      app: the one behind.
      folder: where uploads and results lie.
      max_bytes: of one upload.
      local: whether the server is meant for this machine alone.
    """

    def __init__(self, app: Any, *, folder: Folder, max_bytes: int, local: bool):
        self.app, self.folder, self.max_bytes, self.local = app, folder, max_bytes, local
        self._passwords: collections.deque[float] = collections.deque(maxlen=PASSWORDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
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
        """What gives the body, when all is well."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        if self.local and not is_loopback(name):
            raise Refused(
                421, "this server answers on this machine only, as localhost or 127.0.0.1"
            )
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            raise Refused(403, "requests of other pages are not answered")
        method, path = scope["method"], scope["path"]
        known = _ROUTES.get(method)
        if known is None or not known.fullmatch(path) or ".." in path.split("/"):
            raise Refused(404, "nothing here")
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
        most = self.max_bytes + _FRAME if upload else _WORDS
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
                raise Refused(400, "inputs are uploads: no paths of the server, no addresses")


def _files(value: Any) -> list[Any]:
    """What inputs name as files: the "path" of every object."""
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
    """The same body, which ends with a refusal where it is longer than it may be."""
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
            raise Refused(400, "the request broke off")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read already; after it whatever comes."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict[str, Any]:
        return left.pop() if left else await receive()

    return again
