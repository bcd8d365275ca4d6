"""Batches made ahead of their use, in threads or in Grain's worker processes; how workers end.

A worker lives as long as the run needs it. Ctrl-C, Slurm and systemd send a signal to a whole group
of processes: the run that is asked to stop still takes steps until it has saved, and needs batches
for them, so workers do not hear it. And a run that was killed cannot end its workers: they would
wait for it for ever, each with its memory, so they watch it.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from typing import Any

import grain
from absl import flags


def iterate(steps: grain.MapDataset, workers: int, ahead: int) -> Any:
    """Runs a data set of whole batches, one or two ahead of their use as each is large.

    Args:
      steps: step → batch.
      workers: processes that make them; 0: this one.
      ahead: batches that threads of this process (or of each worker) make ahead.
    """
    dataset = steps.to_iter_dataset(
        grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    )
    if workers:
        atexit.register(_free_shared_memory)  # again by each run, which changes nothing
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's pool reads absl flags; notebooks parse none
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=_in_worker,
        )
    return iter(dataset)


def _in_worker(index: int, count: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in workers"
    parent.join()
    os._exit(1)  # nobody is left to hand a batch to


def _free_shared_memory() -> None:
    """Frees the last batches' shared memory before the interpreter ends.

    Grain does it in a daemon thread, which the end cuts short: a warning of "leaked shared_memory
    objects" followed. JAX on CPU borrows the arrays of a batch and gives them back at the next
    garbage collection.
    """
    gc.collect()
    array = grain.multiprocessing.SharedMemoryArray
    pool = getattr(array, "_del_thread_pool", None)  # Grain has no public way to wait for it
    if pool is not None:
        array._del_thread_pool = None  # what is freed later is freed at once
        pool.close()
        pool.join()
