"""Several processes as one program: they join, and a failure in one ends all, with its reason.

A process that fails alone would leave the others waiting for it inside a collective, where no
exception reaches them. So it writes its reason into the store of jax's coordination service, which
process 0 hosts, and a thread in each process looks there every second. A process that is killed
writes nothing; the service misses its heartbeat, and jax aborts the others.

    with processes.together(several):
        …
"""

# jax is imported inside the functions: spawned workers import the programs' modules again.
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

# All our choice; a killed process has to be noticed, and a failure to end all, within a minute.
HEARTBEAT = 30  # seconds of silence after which a process counts as dead; jax's default is 100
POLL = 1.0  # seconds between two looks at the store
GRACE = 5.0  # for the main thread to come to the failure by itself, as it does outside collectives
UNWINDING = 20.0  # for a main thread that did: started writes, tables
LEAVING = 30.0  # for the others to leave, too: longer than UNWINDING, or process 0 is gone before
MEETING = 24 * 3600  # for one process's work that the others wait for, such as scores
FINISHING = 300  # for the others to finish their work; as jax's own barrier at the end
_FAILURE, _LEFT = "depth_anything_jax/failure", "depth_anything_jax/left"


def join_processes() -> None:
    """Makes this process one of several: call once, before anything touches a device.

    TPU pods, Slurm and the like are found by jax itself. Elsewhere set JAX_COORDINATOR_ADDRESS
    (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
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

    A failure is any exception, and SystemExit with a message; with a number or nothing it is an end
    that all come to. The process that fails prints its error as it would alone and ends with
    its status. The others print "process I failed, so this process ends too: REASON" and end with
    status 1, or with an error of their own that they came to meanwhile.

    Args:
      several: False: nothing is done at all.
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
    """Tells the others of an exception at once, before anything on its way out waits for them."""
    try:
        yield
    except Exception as error:
        tell(error)
        raise


def tell(error: BaseException) -> None:
    """Tells the other processes of a failure: they end, even inside a collective.

    This process should end as well, soon; nothing happens where it is alone.
    """
    if _watch is not None:
        _watch.tell(error)


def failure() -> str | None:
    """What to say of the first failure that a process told of: "process I failed: …"; None: none.

    Who asks and is told has a little longer to end by itself.
    """
    return None if _watch is None else _watch.failure()


def gather(value: Any) -> list[Any]:
    """What each process gave, in their order; all have to call, as often as each other."""
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


def check_alike(facts: Mapping[str, str], cure: str) -> None:
    """Refuses a fact that is another one in another process; all have to call.

    Args:
      facts: name: value.
      cure: how to mend it; the end of the message.

    Raises:
      ValueError: names the first such fact, its value and who has it, in every process.
    """
    every = gather(dict(facts))
    for name in {name: None for each in every for name in each}:  # in their order
        values: dict[str, list[int]] = {}
        for index, each in enumerate(every):
            values.setdefault(each.get(name, "nothing"), []).append(index)
        if len(values) > 1:
            said = "; ".join(
                f"{value} in process{'es' * (len(who) > 1)} {', '.join(map(str, who))}"
                for value, who in values.items()
            )
            raise ValueError(f"{name} is not the same in all processes: {said}. {cure}")


def meet(name: str) -> None:
    """Waits for all processes, as long as the work of one may take: a day.

    By the coordination service: collectives of devices give up after minutes.

    Args:
      name: the same in all, and another one each time.
    """
    state = _jax_state()
    if state is not None and state.num_processes > 1:
        state.client.wait_at_barrier(f"depth_anything_jax/{name}", 1000 * MEETING)


def _jax_state() -> Any:
    """jax's handle of the coordination service: process_id, num_processes, client; None without.

    Private to jax; Orbax uses the same one. There is no public way to the store.
    """
    try:
        from jax._src import distributed

        state = distributed.global_state
        return state if None not in (state.client, state.num_processes, state.process_id) else None
    except (ImportError, AttributeError):
        return None


def reason_of(error: BaseException) -> str:
    """What is told of an exception."""
    text = str(error.code) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return text.encode(errors="backslashreplace").decode()  # of file names that are no UTF-8


class _Watch:
    """The failures of all processes, as this one sees and tells them.

    Without jax's private handle it sees and tells nothing, and heartbeats are what remains.
    """

    def __init__(self, state: Any) -> None:
        self._client: Any = state and state.client
        self._index = state.process_id if state else 0
        self._count = state.num_processes if state else 1
        self._first: tuple[int, str] | None = None  # process and reason
        self._said = threading.Lock()
        self._grace = GRACE
        self._noticed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look_out, name="failures", daemon=True)
        if self._client:
            self._thread.start()

    def tell(self, error: BaseException) -> None:
        """Writes the reason down, unless another process or an earlier call has done so."""
        self._noticed.set()
        # Refused where one is written: the first failure is the cause of others.
        self._try("key_value_set", _FAILURE, f"{self._index} {reason_of(error)}")
        self._look()

    def failure(self) -> str | None:
        """See the function `failure`."""
        if self._first is None:
            return None
        self._noticed.set()
        return "process {} failed: {}".format(*self._first)

    def end(self, error: BaseException) -> None:
        """Ends this process with an error, after the others were told; does not return."""
        self.tell(error)
        self._say_of_another(reason_of(error))
        status = 1
        if isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        else:
            traceback.print_exception(error)
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
        self._leave(status)

    def finish(self) -> None:
        """Waits until all processes have finished; one that fails until then ends this one, too."""
        self._grace = 0.0
        self._try("wait_at_barrier", "depth_anything_jax/finished", 1000 * FINISHING)
        self._over.set()
        if self._client:  # a thread inside jax's C++ code must not see the interpreter's end
            self._thread.join()

    def _try(self, method: str, *arguments: Any) -> Any:
        """A call of the service; None where it refuses, is gone, or has another face."""
        try:
            return getattr(self._client, method)(*arguments)
        except Exception:
            return None

    def _look(self) -> bool:
        found = self._try("key_value_try_get", _FAILURE)
        if found:
            process, _, reason = found.partition(" ")
            self._first = int(process), reason
        return bool(found)

    def _look_out(self) -> None:
        while not self._look():
            if self._over.wait(POLL):
                return
        self._say_of_another("")
        if self._noticed.wait(self._grace):
            time.sleep(UNWINDING)
        if self._over.is_set():
            return
        if self._first and self._first[0] == self._index:  # its main thread would have said it
            print(self._first[1], file=sys.stderr)
        self._leave(1)

    def _say_of_another(self, own_reason: str) -> None:
        """Once, and not where this process failed first or has the same reason to tell."""
        if self._first is None or not self._said.acquire(blocking=False):
            return
        process, reason = self._first
        if process != self._index and reason != own_reason:
            text = f"process {process} failed, so this process ends too: {reason}"
            print(text, file=sys.stderr, flush=True)

    def _leave(self, status: int) -> None:
        """Ends the process, around jax's barrier at the end, which waits for those that hang.

        All leave together: whoever is in a collective with this process would else meet a broken
        connection and tell of that, and the reasons lie with process 0.
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
            time.sleep(POLL)  # until the others have seen that all have come
        os._exit(status)


_watch: _Watch | None = None
