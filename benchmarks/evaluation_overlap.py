"""Share of the time that a device waits for the host in an evaluation: decoding and metrics.

    python benchmarks/evaluation_overlap.py [--images 48] [--threads 2] [--milliseconds 5 10 20]

The device is a stand-in that takes no core: a queue of batches, each done after so many
milliseconds an image, as an accelerator does them. All else is real: 480 x 640 JPEG files are
decoded, resized and normalised, predictions resized and scored with all metrics under `da`.
Prints images a second, and which part of the time the device had nothing to do.
"""

import argparse
import concurrent.futures
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np

from depth_anything_jax.evaluation.runner import loop


class Device:
    """Batches one after the other, `seconds` an image; results are waited for as jax's are."""

    def __init__(self, seconds: float):
        self.seconds, self.busy = seconds, 0.0
        self._queue = concurrent.futures.ThreadPoolExecutor(1)

    def __call__(self, images: np.ndarray) -> "Result":
        return Result(self._queue.submit(self._run, images))

    def _run(self, images: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        out = images[..., 0] + np.linspace(5, 9, images.shape[2], dtype=np.float32)
        time.sleep(max(0.0, self.seconds * len(images) - (time.perf_counter() - start)))
        self.busy += time.perf_counter() - start
        return out


class Result:
    """What `Device` gives at once: an array when it is asked for."""

    def __init__(self, future: concurrent.futures.Future):
        self._future = future

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._future.result()


class Photos:
    """Records whose image is decoded when it is asked for."""

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        small = rng.uniform(0, 255, (48, 64, 3)).astype(np.uint8)
        self._bytes = cv2.imencode(".jpg", cv2.resize(small, (640, 480)))[1]
        self._depth = rng.uniform(1, 9, (480, 640)).astype(np.float32)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """The record's name."""
        return f"{index}.jpg"

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self._count:
            raise IndexError(index)
        image = cv2.imdecode(self._bytes, cv2.IMREAD_COLOR)
        valid = np.ones((480, 640), bool)
        return {
            "key": self.key(index), "image": image, "depth": self._depth, "valid": valid,
            "sky": ~valid, "dataset": "nyu", "domain": "indoor",
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[5, 10, 20])
    arguments = parser.parse_args()
    for milliseconds in arguments.milliseconds:
        device = Device(milliseconds / 1000)
        start = time.perf_counter()
        loop.evaluate(
            device, Photos(arguments.images), protocol="da", batch_size=2, threads=arguments.threads
        )
        seconds = time.perf_counter() - start
        print(
            f"{milliseconds:.0f} ms an image on the device: {arguments.images / seconds:.1f} "
            f"images/s, the device waits {1 - device.busy / seconds:.0%} of the time"
        )
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}, {arguments.threads} threads")


if __name__ == "__main__":
    main()
