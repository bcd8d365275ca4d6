"""Programs in several processes that find each other on this machine and talk through gloo."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[2]


def start(
    command: Sequence[str],
    processes: int,
    *,
    own: Sequence[Mapping[str, str]] = (),
    stderr: int = subprocess.STDOUT,
    **environment: str,
) -> list[subprocess.Popen[str]]:
    """python COMMAND, so many times; --distributed is the caller's to give.

    Args:
      own: of the environment, what each process has for itself.
      stderr: beside what they print, unless it is subprocess.PIPE.
      **environment: of all of them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=stderr,
            env={**both, "JAX_PROCESS_ID": str(i), **(own[i] if own else {})},
        )
        for i in range(processes)
    ]  # fmt: skip


@contextlib.contextmanager
def no_longer(runs: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Kills what a failing test leaves behind."""
    try:
        yield
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
                run.communicate()


def ended(runs: Sequence[subprocess.Popen[str]], seconds: float) -> list[str]:
    """What all print until they end; whoever takes longer than that is killed, status -9."""

    def kill() -> None:
        for run in runs:
            if run.poll() is None:
                run.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    outputs = [run.communicate()[0] for run in runs]
    timer.cancel()
    return outputs


def until(run: subprocess.Popen[str], *said: str) -> str:
    """What a program printed up to and with the first line that holds all of this, or its end."""
    lines = []
    for line in run.stdout or ():
        lines.append(line)
        if all(text in line for text in said):
            break
    return "".join(lines)
