"""What looking for copies costs as sets grow: pairs compared, seconds, memory, and what lists miss.

    python benchmarks/find_duplicates.py [--counts 1000 10000 100000] [--queries 200]

Thumbnails are smooth noise, a collection of each count; queries are members of it with noise of
their own. Prints the share of all pairs of vectors that a search compares, milliseconds of a search
(candidates and their verification), the collection's memory as the process sees it, and how many
queries find their member.
"""

import argparse
import resource
import time

import cv2
import numpy as np

from depth_anything_jax.data import near_copies


def thumbnail(rng: np.random.Generator) -> np.ndarray:
    """Shapes of several sizes, as photos have them."""
    image = np.zeros((64, 64), np.float32)
    for side, weight in ((4, 4), (8, 2), (16, 1.5), (32, 1)):
        noise = rng.normal(0, weight, (side, side)).astype(np.float32)
        image += cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 12 * image, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    last = None
    for count in arguments.counts:
        rng = np.random.default_rng(count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        thumbnails = [thumbnail(rng) for _ in range(count)]
        start = time.process_time()
        collection = near_copies.Collection(thumbnails)
        build = time.process_time() - start
        start, found = time.process_time(), 0
        chosen = rng.choice(count, min(arguments.queries, count), replace=False).tolist()
        for i in chosen:
            noisy = np.clip(thumbnails[i] + rng.normal(0, 4, (64, 64)), 0, 255).astype(np.uint8)
            found += any(c.second == i for c in collection.copies(noisy))
        each = (time.process_time() - start) / len(chosen)
        vectors = 2 * len(near_copies.WINDOWS)
        pairs = len(chosen) * count * (vectors + 2 * (len(near_copies.WINDOWS) - 1))
        share = collection.compared / pairs
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        growth = ""
        if last:
            power = np.log(share * count / (last[1] * last[0])) / np.log(count / last[0])
            growth = f"; comparisons grow as n^{power:.2f}"
        print(
            f"{count:,} images: built in {build:.1f} s of CPU, a search {1000 * each:.1f} ms, "
            f"{share:.1%} of all pairs compared, {memory:.0f} MB more, {found} of {len(chosen)} "
            f"found{growth}",
            flush=True,
        )
        last = count, share
        del collection, thumbnails


if __name__ == "__main__":
    main()
