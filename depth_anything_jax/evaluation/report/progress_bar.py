"""A progress bar: images, images a second, time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be told of (images done, images in all).

    What was done before it is told for the first time, by an earlier run or while programs were
    compiled, has no part in the rate. A terminal gets a bar that moves, a log a line now and then.
    """
    from tqdm import tqdm

    if not quiet:
        print(title, file=sys.stderr, flush=True)
    pace: dict[str, Any] = {}
    if not sys.stderr.isatty():
        pace = {"mininterval": 30, "maxinterval": 30}
    with tqdm(unit=" images", disable=quiet, **pace) as shown:
        started = False

        def tell(done: int, count: int) -> None:
            nonlocal started
            if not started:
                started = True
                shown.total, shown.n, shown.initial = count, done, done
                shown.start_t = shown.last_print_t = time.time()
                shown.last_print_n = done
            shown.update(done - shown.n)

        yield tell
