"""Receives the bodies of requests (ASGI), with limits on their size and on the time they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
PATIENCE = 20.0  # seconds without a byte, and before SLOWEST counts
SLOWEST = 16_384  # bytes per second of a whole body; a bad mobile connection sends 50 kB/s


class Refused(Exception):
    """Raised for a refused request: HTTP status and message."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class BrokenOff(Refused):
    """The sender hung up before its body was complete."""


def limited(receive: Receive, most: int) -> Receive:
    """Wraps `receive` so that it refuses a body longer than `most` bytes, or one that is too slow.

    The limits hold until the body is complete; after that `receive` waits for the sender to hang
    up, as long as it takes.
    """
    count, begun, complete = 0, time.monotonic(), False

    async def checked() -> dict[str, Any]:
        nonlocal count, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), PATIENCE)
        except TimeoutError as error:
            raise Refused(408, f"nothing was received for {PATIENCE:g} seconds") from error
        if message["type"] == "http.disconnect":
            raise BrokenOff(400, "the request is incomplete")
        count += len(message.get("body", b""))
        complete = not message.get("more_body")
        if count > most:
            raise Refused(413, f"too large: at most {most / 1e6:.1f} MB")
        if not complete and time.monotonic() - begun > PATIENCE + count / SLOWEST:
            raise Refused(408, f"too slow: at least {SLOWEST / 1000:.0f} kB per second are needed")
        return message

    return checked


async def whole(receive: Receive) -> bytes:
    """Receives a body to its end."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that yields a body read before, then continues with the original."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def repeated() -> dict[str, Any]:
        return left.pop() if left else await receive()

    return repeated
