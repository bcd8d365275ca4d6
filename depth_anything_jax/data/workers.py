"""Makes batches ahead of their use, in threads or in Grain's worker processes; worker shutdown.

Workers ignore SIGINT and SIGTERM, which Ctrl-C, Slurm and systemd send to a whole process group: a
run that is asked to stop still takes steps until it has saved, and needs batches for them. Workers
end when their parent has ended: one that was killed cannot stop them, and they would wait for ever
and keep their memory.
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
    """Iterates over a data set of batches, reading only one or two ahead because each is large.

    Args:
      steps: step → batch.
      workers: processes that make them; 0: this one.
      ahead: batches that threads of this process (or of each worker) make ahead.
    """
    dataset = steps.to_iter_dataset(
        grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    )
    if workers:
        atexit.register(_free_shared_memory)  # registering it again does no harm
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
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes run this"
    parent.join()
    os._exit(1)  # no process is left that wants a batch


def _free_shared_memory() -> None:
    """Frees the last batches' shared memory before the interpreter ends.

    Grain does it in a daemon thread, which the interpreter's end interrupts: Python then warned of
    "leaked shared_memory objects". JAX on CPU holds the arrays of a batch until the next garbage
    collection.
    """
    gc.collect()
    array = grain.multiprocessing.SharedMemoryArray
    pool = getattr(array, "_del_thread_pool", None)  # Grain has no public way to wait for it
    if pool is not None:
        array._del_thread_pool = None  # what is freed later is freed at once
        pool.close()
        pool.join()
