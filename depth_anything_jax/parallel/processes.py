"""Joins several processes into one run, and ends all of them when one fails, with its reason.

A process that fails on its own would leave the others waiting for it inside a collective, where no
exception reaches them. Therefore it writes its reason into the key-value store of jax's
coordination service, which process 0 hosts, and a thread in each process polls it every second. A
process that is killed writes nothing; the service misses its heartbeat, and jax aborts the others.

    with processes.together(several):
        …
"""

# jax is imported inside the functions, because spawned workers import the programs' modules again.
from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

# All are our choice: a killed process must be noticed, and a failure must end all, in a minute.
HEARTBEAT = 30  # seconds of silence after which a process counts as dead; jax's default is 100
POLL = 1.0  # seconds between two reads of the store
GRACE = 5.0  # for the main thread to notice the failure itself, as it does outside collectives
UNWINDING = 20.0  # for a main thread that noticed it, to finish started writes and tables
LEAVING = 30.0  # for the others to exit: longer than UNWINDING, or process 0 exits before them
MEETING = 24 * 3600  # for one process's work that the others wait for, such as scoring
FINISHING = 300  # for the others to finish their work; as in jax's own barrier at the end
_FAILURE, _LEFT = "depth_anything_jax/failure", "depth_anything_jax/left"


def join_processes() -> None:
    """Joins this process to the others; call it once, before any device is used.

    jax detects TPU pods, Slurm and the like. Elsewhere set JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    import jax

    count, index = (os.environ.get(f"JAX_{x}") for x in ("NUM_PROCESSES", "PROCESS_ID"))
    jax.distributed.initialize(
        num_processes=int(count) if count else None,
        process_id=int(index) if index else None,
        heartbeat_timeout_seconds=HEARTBEAT,
    )


@contextlib.contextmanager
def together(several: bool) -> Iterator[None]:
    """Joins the processes, and ends them all when the body fails in one of them.

    Any exception is a failure; SystemExit is one only with a message, because with a number or
    without an argument it is a normal end in all processes. The failing process prints its error
    and exits with its status, as it would alone. The others print "process I failed, so this
    process ends too: REASON" and exit with status 1, or with an error of their own raised
    meanwhile.

    Args:
      several: False: the context does nothing.
    """
    global _watch
    if not several:
        yield
        return
    join_processes()
    state = _jax_state()
    if state is not None and state.num_processes == 1:
        yield
        return
    _watch = _Watch(state)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit) or isinstance(error.code, str):
            _watch.end(error)
        _watch.finish()
        raise
    else:
        _watch.finish()


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Reports an exception to the other processes at once, before cleanup can wait for them."""
    try:
        yield
    except Exception as error:
        tell(error)
        raise


def tell(error: BaseException) -> None:
    """Reports a failure to the other processes, which then end, even inside a collective.

    This process should end soon as well; with a single process nothing happens.
    """
    if _watch is not None:
        _watch.tell(error)


def failure() -> str | None:
    """Describes the first reported failure: "process I failed: …"; None if there is none.

    A process that has been told this way gets a little more time to end by itself.
    """
    return None if _watch is None else _watch.failure()


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes in order; all must call it equally often."""
    import numpy as np
    from jax.experimental import multihost_utils

    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([mine.size], np.int32)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: mine.size] = mine
    every = np.asarray(multihost_utils.process_allgather(padded)).reshape(sizes.size, -1)
    return [
        pickle.loads(row[:size].tobytes()) for row, size in zip(every, sizes.ravel(), strict=True)
    ]


def check_alike(facts: Mapping[str, str], fix: str) -> None:
    """Checks that all processes have the same facts; all must call it.

    Args:
      facts: {name: value}.
      fix: how to fix a difference; the end of the message.

    Raises:
      ValueError: a fact differs; raised in every process, with the first such fact, its values and
        the processes that have them.
    """
    every = gather(dict(facts))
    for name in {name: None for each in every for name in each}:  # in their order
        values: dict[str, list[int]] = {}
        for index, each in enumerate(every):
            values.setdefault(each.get(name, "nothing"), []).append(index)
        if len(values) > 1:
            text = "; ".join(
                f"{value} in process{'es' * (len(who) > 1)} {', '.join(map(str, who))}"
                for value, who in values.items()
            )
            raise ValueError(f"{name} is not the same in all processes: {text}. {fix}")


def meet(name: str) -> None:
    """Waits for all processes, for up to a day of work in one of them.

    It uses the coordination service, because collectives of devices time out after minutes.

    Args:
      name: the same in all processes, and different in each call.
    """
    state = _jax_state()
    if state is not None and state.num_processes > 1:
        state.client.wait_at_barrier(f"depth_anything_jax/{name}", 1000 * MEETING)


def _jax_state() -> Any:
    """jax's handle of the coordination service (process_id, num_processes, client), or None.

    It is private to jax; Orbax uses the same one. The store has no public API.
    """
    try:
        from jax._src import distributed

        state = distributed.global_state
        return state if None not in (state.client, state.num_processes, state.process_id) else None
    except (ImportError, AttributeError):
        return None


def reason_of(error: BaseException) -> str:
    """Formats an exception for the other processes."""
    text = str(error.code) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return text.encode(errors="backslashreplace").decode()  # for file names that are not UTF-8


class _Watch:
    """Watches for failures of other processes and reports those of this one.

    Without jax's private handle it does nothing, and only heartbeats detect failures.
    """

    def __init__(self, state: Any) -> None:
        self._client: Any = state and state.client
        self._index = state.process_id if state else 0
        self._count = state.num_processes if state else 1
        self._first: tuple[int, str] | None = None  # process and reason
        self._printed = threading.Lock()
        self._grace = GRACE
        self._noticed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="failures", daemon=True)
        if self._client:
            self._thread.start()

    def tell(self, error: BaseException) -> None:
        """Stores the reason, unless another process or an earlier call has stored one."""
        self._noticed.set()
        # The store keeps the first reason: the first failure is the cause of later ones.
        self._try("key_value_set", _FAILURE, f"{self._index} {reason_of(error)}")
        self._poll()

    def failure(self) -> str | None:
        """See the function `failure`."""
        if self._first is None:
            return None
        self._noticed.set()
        return "process {} failed: {}".format(*self._first)

    def end(self, error: BaseException) -> None:
        """Reports an error to the others and ends this process; does not return."""
        self.tell(error)
        self._print_other_failure(reason_of(error))
        status = 1
        if isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        else:
            traceback.print_exception(error)
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
        self._leave(status)

    def finish(self) -> None:
        """Waits until all processes have finished; a failure until then ends this one, too."""
        self._grace = 0.0
        self._try("wait_at_barrier", "depth_anything_jax/finished", 1000 * FINISHING)
        self._over.set()
        if self._client:  # a thread inside jax's C++ code must not outlive the interpreter
            self._thread.join()

    def _try(self, method: str, *arguments: Any) -> Any:
        """Calls the service; None where it refuses, is gone, or has another interface."""
        try:
            return getattr(self._client, method)(*arguments)
        except Exception:
            return None

    def _poll(self) -> bool:
        found = self._try("key_value_try_get", _FAILURE)
        if found:
            process, _, reason = found.partition(" ")
            self._first = int(process), reason
        return bool(found)

    def _run(self) -> None:
        while not self._poll():
            if self._over.wait(POLL):
                return
        self._print_other_failure("")
        if self._noticed.wait(self._grace):
            time.sleep(UNWINDING)
        if self._over.is_set():
            return
        if self._first and self._first[0] == self._index:  # the main thread did not print it
            print(self._first[1], file=sys.stderr)
        self._leave(1)

    def _print_other_failure(self, own_reason: str) -> None:
        """Prints a failure once, unless this process failed first or has the same reason."""
        if self._first is None or not self._printed.acquire(blocking=False):
            return
        process, reason = self._first
        if process != self._index and reason != own_reason:
            text = f"process {process} failed, so this process ends too: {reason}"
            print(text, file=sys.stderr, flush=True)

    def _leave(self, status: int) -> None:
        """Ends the process without jax's final barrier, which would wait for hanging processes.

        All processes exit together: those in a collective with this one would otherwise report a
        broken connection instead, and process 0 hosts the store with the reasons.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._try("key_value_set", f"{_LEFT}/{self._index}", "", True)
        until = time.monotonic() + LEAVING
        while time.monotonic() < until and self._count > 1:
            if len(self._try("key_value_dir_get", _LEFT) or ()) >= self._count:
                break
            time.sleep(POLL / 4)
        if self._index == 0 and self._count > 1:
            time.sleep(POLL)  # until the others have seen that all are leaving
        os._exit(status)


_watch: _Watch | None = None
