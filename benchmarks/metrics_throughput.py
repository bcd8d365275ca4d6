"""Images a second of alignment and metrics alone, the prediction given, on the cores there are.

    python benchmarks/metrics_throughput.py [--images 40] [--processes 2]

Each image is a 518 x 686 prediction against a 480 x 640 label under a protocol: resize, least
squares, all metrics, boundary F1 at three radii included. Prints the rate by the clock,
and the processor time of one image, which a busy machine lengthens less; then the cores, their load
and the versions.
"""

import argparse
import concurrent.futures
import functools
import os
import platform
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread for each process

import numpy as np

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.scores import scoring

KIND = "disparity-affine"


def example(seed: int) -> tuple[dict, np.ndarray]:
    """A ramp with boxes of depth, and a noisy idea of it."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(2, 9, 480)[:, None] + np.zeros(640)
    for _ in range(40):
        y, x = rng.integers(0, 440), rng.integers(0, 600)
        depth[y : y + 80, x : x + 80] = rng.uniform(1, 9)
    valid = rng.random(depth.shape) < 0.9
    record = {
        "key": str(seed), "depth": np.where(valid, depth, 0).astype(np.float32), "valid": valid,
        "sky": ~valid, "dataset": "nyu", "domain": "indoor",
    }  # fmt: skip
    rows, columns = np.arange(518) * 480 // 518, np.arange(686) * 640 // 686
    pred = 3 / depth[rows][:, columns] + rng.normal(0, 0.05, (518, 686))
    return record, pred.astype(np.float32)


def work(name: str, boundary: bool, count: int, seed: int) -> tuple[float, float]:
    """(seconds, processor seconds) for `count` images."""
    protocol = protocols.get(name, KIND, "nyu", "indoor")
    examples = [example(seed + i) for i in range(4)]
    scoring.score(examples[0][1], KIND, examples[0][0], protocol, boundary=boundary)
    start = time.perf_counter(), time.process_time()
    for i in range(count):
        record, pred = examples[i % len(examples)]
        found = scoring.score(pred, KIND, record, protocol, boundary=boundary)
        assert not found.why and found.abs_rel < 1
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="for each process")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
        for name, boundary in (("da", True), ("da", False), ("golden", False)):
            run = functools.partial(work, name, boundary, arguments.images)
            clock, used = zip(*pool.map(run, range(0, 100 * arguments.processes, 100)), strict=True)
            count = arguments.images * arguments.processes
            what = "all metrics" if boundary else "without boundary F1"
            print(
                f"{name}@1, {what}: {count / max(clock):.1f} images/s with {arguments.processes} "
                f"processes, {1000 * sum(used) / count:.0f} ms of a core each"
            )
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")


if __name__ == "__main__":
    main()
