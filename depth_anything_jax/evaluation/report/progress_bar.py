"""Shows a progress bar: images done, images per second, time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar and yields the function that updates it: (images done, images in total).

    Images that are done at the first update, by an earlier run or while programs were compiled, do
    not count for the rate. On a terminal the bar moves; a log gets a line every 30 seconds.
    """
    from tqdm import tqdm

    if not quiet:
        print(title, file=sys.stderr, flush=True)
    pace: dict[str, Any] = {}
    if not sys.stderr.isatty():
        pace = {"mininterval": 30, "maxinterval": 30}
    with tqdm(unit=" images", disable=quiet, **pace) as shown:
        started = False

        def update(done: int, count: int) -> None:
            nonlocal started
            if not started:
                started = True
                shown.total, shown.n, shown.initial = count, done, done
                shown.start_t = shown.last_print_t = time.time()
                shown.last_print_n = done
            shown.update(done - shown.n)

        yield update
