"""Images a second and core from JPEG shards to 518-pixel crops, what each stage costs, and memory.

    python benchmarks/input_pipeline.py --out benchmarks/results/input_pipeline
    python benchmarks/input_pipeline.py --memory 20000

Writes its own data: rendered scenes with noise, 640 x 480, as JPEG with depth in 16-bit PNG, packed
into ArrayRecord shards by tools/prepare_data.py. They are read by the pipeline of training
(data/pipeline.py) in one thread of this process. Rates are images over *processor* seconds, which a
busy machine lengthens little, so they are those of one core. The images of a batch leave the
pipeline in 0-1; the device normalises them (training/perturb.py), and what that would cost here is
listed apart. --memory reads on and fits a line to the process's resident memory.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # tools lies beside the package

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from depth_anything_jax.data import pipeline, transforms  # noqa: E402
from depth_anything_jax.data.file_formats import formats  # noqa: E402
from depth_anything_jax.data.registry import make  # noqa: E402
from depth_anything_jax.data.scenes.render import render  # noqa: E402
from depth_anything_jax.utils.encoders import DINOV2  # noqa: E402
from tools import prepare_data  # noqa: E402

SIZE, PATCH = transforms.SIZE, DINOV2.patch_size
HEIGHT, WIDTH = 480, 640  # NYUv2's and ScanNet's
TARGETS = {"unlabelled": 150, "labelled": 80}  # images a second and core
QUALITY = 90  # of the JPEGs; with the noise they are as large as photos of that size, some 90 kB
NOISE = 6.0  # standard deviation of the noise, in 8-bit steps
WARM = 0.25  # share of the samples of memory before the line: buffers are still growing


def write_files(folder: pathlib.Path, count: int, records: int) -> None:
    """Writes so many images and labels, each under several names, and a manifest of all names."""
    folder.mkdir(parents=True)
    entries = []
    rng = np.random.default_rng(0)
    for i in range(count):
        scene = render("A", 0, i, WIDTH)
        rows = slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2)
        image = scene["image"][rows].astype(np.float32)
        image = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        name = f"{i:04d}"
        flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
        depth = scene["depth"][rows]  # 0 in the sky
        cv2.imwrite(str(folder / f"{name}.png"), (np.clip(depth, 0, 65) * 1000).astype(np.uint16))
        for j in range(i, records, count):
            other = f"{j:04d}"
            for end in (".jpg", ".png") if j > i else ():
                os.link(folder / f"{name}{end}", folder / f"{other}{end}")
            entries.append({"rgb": f"{other}.jpg", "depth": f"{other}.png", "scale": 1000})
    text = json.dumps(entries)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def pack(folder: pathlib.Path, out: pathlib.Path) -> str:
    """Packs them into shards; returns the path of the data set."""
    source = f"rgbd:{folder}/manifest.json"
    prepare_data.main(["--source", source, "--out", str(out), "--name", "pairs", "--workers", "1"])
    return str(out / "pairs")


def batches(path: str, part: str, batch: int) -> pipeline.Batches:
    """Training's batches of one part, made when they are asked for, in this thread."""
    spec = {"type": "tfds", "path": path}
    config = {part: [spec], "workers": 0, "threads": 0}
    counts = {"labelled_batch": 0, "unlabelled_batch": 0, f"{part}_batch": batch}
    return pipeline.train_batches(config, **counts, size=SIZE, patch_size=PATCH, seed=0)


def rate(path: str, part: str, batch: int, images: int) -> dict[str, float]:
    """Images a processor second and a second by the clock."""
    with batches(path, part, batch) as found:
        next(found)
        start, used = time.perf_counter(), time.process_time()
        steps = -(-images // batch)
        for _ in range(steps):
            next(found)
        start, used = time.perf_counter() - start, time.process_time() - used
    return {"images_per_core_s": steps * batch / used, "images_per_s": steps * batch / start}


def stages(path: str, folder: pathlib.Path, rounds: int) -> dict[str, float]:
    """Processor milliseconds of one image in each stage, each called by itself."""
    source = make({"type": "tfds", "path": path})
    record = source[0]
    data = (folder / "0000.jpg").read_bytes()
    label = (folder / "0000.png").read_bytes()
    geometry = transforms.draw_geometry(
        np.random.default_rng(0), HEIGHT, WIDTH, SIZE, patch_size=PATCH
    )._replace(flip=True)
    height, width = geometry.height, geometry.width
    window = np.s_[geometry.top : geometry.top + SIZE, geometry.left : geometry.left + SIZE]
    resized = transforms.resize_image(record["image"], height, width)
    crop = resized[window]
    batch = np.empty((2, SIZE, SIZE, 3), np.float32)

    def resize_label() -> None:
        for field in ("depth", "valid", "sky"):
            np.ascontiguousarray(transforms.resize_nearest(record[field], height, width)[window])

    def stack() -> None:
        batch[1] = crop

    work: dict[str, Callable[[], Any]] = {
        "image: decode JPEG": lambda: formats.decode_image(data),
        "image: to float, resize": lambda: transforms.resize_image(record["image"], height, width),
        "image: crop, flip": lambda: np.ascontiguousarray(crop[:, ::-1]),
        "image: stack": stack,
        "all of resize, crop, flip": lambda: transforms.apply_geometry(
            {"image": record["image"]}, geometry, SIZE
        ),
        "label: decode PNG": lambda: formats.decode_raw(label, "label", bits=16),
        "label: resize, crop of 3 maps": resize_label,
        "normalise (on the device, not here)": lambda: DINOV2.normalise(crop),
    }
    unlabelled = make({"type": "tfds", "path": path, "labelled": False})
    work["record of the shard, unlabelled"] = lambda: unlabelled[0]
    work["record of the shard, labelled"] = lambda: source[0]
    found = {}
    for name, function in work.items():
        function()
        used = time.process_time()
        for _ in range(rounds):
            function()
        found[name] = 1000 * (time.process_time() - used) / rounds
    return found


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(path: str, batch: int, images: int) -> dict[str, float]:
    """Reads labelled images; megabytes at the end and the slope in megabytes per 1000 images."""
    seen, used = [], []
    every = max(images // 80, batch)
    with batches(path, "labelled", batch) as found:
        done = 0
        while done < images:
            next(found)
            done += batch
            if done // every > (done - batch) // every:
                seen.append(done)
                used.append(resident())
    warm = int(WARM * len(seen))
    return {
        "images": done, "samples": len(seen), "start_mb": used[0], "end_mb": used[-1],
        "most_mb": max(used), "slope_mb_per_1000": 1000 * slope(seen[warm:], used[warm:]),
    }  # fmt: skip


def slope(x: list[int], y: list[float]) -> float:
    """Of the least-squares line."""
    return float(np.polyfit(x, y, 1)[0])


def markdown(found: dict[str, Any]) -> str:
    """The result as people read it."""
    lines = [
        "# The input pipeline on one core",
        "",
        f"```sh\n{found['command']}\n```",
        "",
        f"{found['date']}, {found['machine']}. {found['versions']}. {found['data']}.",
        "",
        "| part | images a processor second | target | images a second by the clock |",
        "| --- | --- | --- | --- |",
    ]
    for part, row in found["rates"].items():
        lines.append(
            f"| {part} | {row['images_per_core_s']:.0f} | {TARGETS[part]} | "
            f"{row['images_per_s']:.0f} |"
        )
    lines += ["", "| stage, by itself | processor ms an image |", "| --- | --- |"]
    lines += [f"| {name} | {ms:.2f} |" for name, ms in found["stages"].items()]
    if kept := found.get("memory"):
        lines += [
            "",
            f"Resident memory over {kept['images']:,} labelled images: {kept['start_mb']:.0f} MB "
            f"at first, {kept['end_mb']:.0f} MB at last, {kept['most_mb']:.0f} MB at most; after "
            f"the first quarter the line through {kept['samples']} samples rises by "
            f"{kept['slope_mb_per_1000']:.2f} MB per 1,000 images.",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=24, help="images that are rendered")
    # Grain's shuffle of one index takes 4 ms of 4 records, .01 ms of 1000: few would be unlike data
    parser.add_argument("--records", type=int, default=1000, help="of the data set, as copies")
    parser.add_argument("--images", type=int, default=960, help="read for each rate")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=100, help="calls of each stage")
    parser.add_argument("--memory", type=int, default=0, help="images read for the memory's slope")
    parser.add_argument("--out", help="OUT.json and OUT.md; else the table is printed only")
    chosen = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "files"
        write_files(folder, chosen.count, chosen.records)
        size = sum(p.stat().st_size for p in folder.glob("*.jpg")) / chosen.records / 1000
        path = pack(folder, pathlib.Path(scratch) / "data")
        found: dict[str, Any] = {
            "command": shlex.join(["python", "benchmarks/input_pipeline.py", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load "
            f"{os.getloadavg()[0]:.1f}",
            "versions": f"OpenCV {cv2.__version__}, numpy {np.__version__}, Python "
            f"{platform.python_version()}",
            "data": f"{chosen.records} records of {chosen.count} JPEGs of {WIDTH} x {HEIGHT} "
            f"pixels, {size:.0f} kB on average",
            "rates": {
                part: rate(path, part, chosen.batch, chosen.images)
                for part in ("unlabelled", "labelled")
            },
            "stages": stages(path, folder, chosen.rounds),
        }
        if chosen.memory:
            found["memory"] = memory(path, chosen.batch, chosen.memory)
    text = markdown(found)
    if chosen.out:
        pathlib.Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(f"{chosen.out}.md").write_text(text, encoding="utf-8")
        as_json = json.dumps(found, indent=1) + "\n"
        pathlib.Path(f"{chosen.out}.json").write_text(as_json, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
