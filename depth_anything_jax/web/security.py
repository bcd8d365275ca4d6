"""Request filter: ASGI middleware that restricts which requests reach Gradio.

Gradio answers about sixty routes, of which this page uses a dozen: the others read files, fetch
addresses for the caller, or describe the program. Routes that are not on the list are answered with
404. The filter also refuses
  - requests with a host name other than this machine's, while only this machine is served: another
    site that lets its own name resolve to this machine (DNS rebinding) would otherwise get in;
  - requests sent by pages of other servers;
  - bodies that are too large or too slow, and uploads that the folder has no room for;
  - inputs that name a file the server did not receive as an upload, an address to fetch, or an
    event that the page does not have;
  - routes that Gradio answers without a password although the page has one;
  - more than a few wrong passwords per minute.
Every response forbids the browser to load anything from other servers (Content-Security-Policy).
"""

from __future__ import annotations

import http.cookies
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

from absl import logging

from depth_anything_jax.web.login import WrongPasswords, is_loopback
from depth_anything_jax.web.request_body import Receive, Refused, again, limited, whole
from depth_anything_jax.web.upload_folder import Folder, FolderFull

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
# Gradio asks for the password itself at the other routes that do anything.
_OPEN = re.compile(rf"{_API}/(cancel|reset|heartbeat/\w+)/?")
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
Send = Callable[[dict[str, Any]], Awaitable[None]]


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
        self._wrong = WrongPasswords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no web sockets
            return

        begun, upload = False, scope["path"].startswith(f"{_API}/upload")
        login = scope["method"] == "POST" and scope["path"].startswith("/login")

        async def sent(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if login and message["status"] not in (400, 429):
                    self._wrong.take_back(_address(scope))
                kept = [(k, v) for k, v in message["headers"] if k.lower().decode() not in _HEADERS]
                kept += [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": kept}
            await send(message)

        try:
            passed = await self._check(scope, receive)
            if upload and scope["method"] == "POST":
                await self._upload(scope, passed, sent)
            else:
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

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards an upload while the folder has room for it; what breaks off leaves no file."""
        announced = _headers_of(scope).get("content-length")
        try:
            with self.folder.upload(self.max_bytes if announced is None else int(announced)):
                await self.app(scope, receive, send)
        except FolderFull as error:
            raise Refused(507, str(error)) from error
        except Refused:
            raise
        except OSError as error:
            logging.exception("an upload failed")
            raise Refused(507, "the server cannot store the upload") from error
        except Exception as error:  # Gradio does not expect every form
            logging.exception("an upload failed")
            raise Refused(400, "not an upload as this page sends it") from error

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        """Checks a request; returns the function that receives its body."""
        headers = _headers_of(scope)
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
        if _OPEN.fullmatch(path) and not _logged_in(scope, headers):
            raise Refused(401, "not authenticated")
        if method != "POST":
            return receive
        if path.startswith("/login"):  # wrong until Gradio says otherwise: many may come at a time
            if self._wrong.too_many(_address(scope)):
                raise Refused(429, "too many wrong passwords; wait a minute")
            self._wrong.add(_address(scope))
        upload = path.startswith(f"{_API}/upload")
        most = self.max_bytes + _MULTIPART if upload else _MAX_BODY
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > most:
            raise Refused(413, f"too large: at most {self.max_bytes / 1e6:.0f} MB")
        if not path.startswith(f"{_API}/queue/join"):
            return limited(receive, most)
        body = await whole(limited(receive, most))
        self._check_inputs(body, scope)
        return again(body, receive)

    def _check_inputs(self, body: bytes, scope: Scope) -> None:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "not JSON") from error
        if not isinstance(found, dict):
            raise Refused(400, "not a JSON object")
        number, session = found.get("fn_index"), found.get("session_hash")
        events = scope["app"].get_blocks().fns
        if type(number) is not int or number not in events:
            raise Refused(400, f"fn_index={number!r:.40}: this page has no such event")
        if not isinstance(session, str) or not session:
            raise Refused(400, f"session_hash={session!r:.40}: must be a text that is not empty")
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


def _headers_of(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _logged_in(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a request has the cookie of a login, or no password is asked for."""
    app = scope["app"]
    if app.auth is None:
        return True
    try:
        cookies = http.cookies.SimpleCookie(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return False
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in cookies and cookies[name].value in app.tokens for name in names)
