"""CPU seconds that preparing a thousand records of each training set takes, on sets of real sizes.

    python benchmarks/prepare_times.py [SET ...] [--records 16]

Each set is written in its own layout, with the pixels, formats and compression of its downloads (as
far as docs/data.md knows them) and rendered scenes as images and depth, and goes through the same
function that `tools/prepare_data.py` runs for every shard, in one process. The files were just
written, so they are read from memory: a disk or a bucket comes on top. bdd100k is its image release
here; of its videos the decoding comes on top.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from depth_anything_jax.data import prepared_shards, registry  # noqa: E402
from depth_anything_jax.data.file_formats import formats  # noqa: E402
from depth_anything_jax.data.scenes.render import render  # noqa: E402
from tests.helpers import training_set_files as files  # noqa: E402
from tests.helpers.benchmark_files import npy, png16, write  # noqa: E402

# Height and width of the sets of images alone; a typical one where they differ.
IMAGES = {
    "bdd100k": (720, 1280),
    "imagenet21k": (375, 500),
    "landmarks": (1200, 1600),
    "lsun": (256, 341),
    "objects365": (512, 769),
    "openimages": (768, 1024),
    "places365": (512, 683),
    "sa1b": (1500, 2250),
}


def scene(index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A rendered picture and its depth in metres, enlarged, with the noise of a camera."""
    record = render("A", 0, index, 256)
    image = cv2.resize(record["image"], (width, height), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(index).normal(0, 4, image.shape)
    depth = cv2.resize(record["depth"], (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(image + noise, 0, 255).astype(np.uint8), np.maximum(depth, 0.1)


def picture(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    cv2.imwrite(str(path), image[..., ::-1], quality)


def hypersim(root: pathlib.Path, count: int) -> None:
    """HDF5 of float16, gzip 9, and JPEG previews."""
    lines = [f"ai_001_001,cam_00,{i},True,,train" for i in range(count)]
    files.hypersim_tables(root, {"ai_001_001": files.SIMPLE}, lines)
    images = root / "ai_001_001/images"
    for i in range(count):
        image, depth = scene(i, 768, 1024)
        picture(images / f"scene_cam_00_final_preview/frame.{i:04d}.tonemap.jpg", image)
        name = f"scene_cam_00_geometry_hdf5/frame.{i:04d}.depth_meters.hdf5"
        files.hdf5(images / name, "dataset", depth.astype(np.float16))
    write(root / "ai_001_001/_detail/metadata_scene.csv", "meters_per_asset_unit,0.0254\n")


def vkitti2(root: pathlib.Path, count: int) -> None:
    """JPEG and 16-bit PNG in centimetres."""
    below = "Scene01/fog/frames"
    for i in range(count):
        image, depth = scene(i, 375, 1242)
        picture(root / below / f"rgb/Camera_0/rgb_{i:05d}.jpg", image)
        values = np.clip(100 * depth, 1, 65535).astype(np.uint16)
        write(root / below / f"depth/Camera_0/depth_{i:05d}.png", png16(values))


def tartanair(root: pathlib.Path, count: int) -> None:
    """Version 1: PNG and float32 NPY."""
    for i in range(count):
        image, depth = scene(i, 480, 640)
        picture(root / f"hospital/Easy/P000/image_left/{i:06d}_left.png", image)
        depth = depth.astype(np.float16).astype(np.float32)
        write(root / f"hospital/Easy/P000/depth_left/{i:06d}_left_depth.npy", npy(depth))


def irs(root: pathlib.Path, count: int) -> None:
    """PNG and disparity in EXR, one channel."""
    for i in range(count):
        image, depth = scene(i, 540, 960)
        picture(root / f"Home/RoyalRoom/l_{i}.png", image)
        files.exr(root / f"Home/RoyalRoom/d_{i}.exr", G=(48 / depth).astype(np.float16))


def hrwsi(root: pathlib.Path, count: int) -> None:
    """JPEG, 8-bit disparity and masks in PNG."""
    for i in range(count):
        image, depth = scene(i, 768, 1024)
        values = np.clip(255 * depth.min() / depth, 1, 255).astype(np.uint8)
        picture(root / f"train/imgs/{i}.jpg", image)
        for folder, values_ in (("gts", values), ("valid_masks", np.full_like(values, 255))):
            (root / "train" / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(root / f"train/{folder}/{i}.png"), values_)


def megadepth(root: pathlib.Path, count: int) -> None:
    """JPEG and depth in HDF5."""
    for i in range(count):
        image, depth = scene(i, 1200, 1600)
        picture(root / f"0000/dense0/imgs/{i}_o.jpg", image)
        files.hdf5(root / f"0000/dense0/depths/{i}_o.h5", "depth", depth.astype(np.float32))


def blendedmvs(root: pathlib.Path, count: int) -> None:
    """The low-resolution release: JPEG, PFM, a camera each."""
    place = root / "5bfe5ae0fe0ea555e6a969ca"
    K = np.array([[600.0, 0, 384], [0, 600, 288], [0, 0, 1]])
    for i in range(count):
        image, depth = scene(i, 576, 768)
        picture(place / f"blended_images/{i:08d}.jpg", image)
        pfm = formats.encode_pfm(depth.astype(np.float32))
        write(place / f"rendered_depth_maps/{i:08d}.pfm", pfm)
        write(place / f"cams/{i:08d}_cam.txt", files.cam_txt(K, 0.4))


def diml(root: pathlib.Path, count: int) -> None:
    """Indoors: PNG, and 16-bit PNG in millimetres."""
    for i in range(count):
        image, depth = scene(i, 792, 1408)
        picture(root / f"2/16.02.02/1/col/in_k_{i}_c.png", image)
        values = np.clip(1000 * depth, 1, 65535).astype(np.uint16)
        write(root / f"2/16.02.02/1/up_png/in_k_{i}_up.png", png16(values))


LABELLED = (blendedmvs, diml, hrwsi, hypersim, irs, megadepth, tartanair, vkitti2)


def source_of(name: str, root: pathlib.Path, count: int) -> str:
    """Writes a set; returns its source."""
    for write_set in LABELLED:
        if write_set.__name__ == name:
            write_set(root, count)
            return f"{name}:{root}"
    height, width = IMAGES[name]
    for i in range(count):
        picture(root / f"{i}.jpg", scene(i, height, width)[0])
    return f"folder:{root}"  # the bytes of an image are copied, whatever held them


def main() -> None:
    known = [*(w.__name__ for w in LABELLED), *IMAGES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=known, metavar="SET")
    parser.add_argument("--records", type=int, default=16)
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - set(known):
        parser.error(f"no set {', '.join(sorted(unknown))}: one of {', '.join(known)}")
    cv2.setNumThreads(1)
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            root, out = pathlib.Path(folder) / "set", pathlib.Path(folder) / "out"
            text = source_of(name, root, arguments.records)
            source = registry.make(registry.parse(text))
            plan = prepared_shards.make_plan(source, name, text, len(source))
            prepared_shards.start(plan, out, source)
            start = time.process_time()
            note = prepared_shards.write_shard(plan, out, source, 0)
            seconds = time.process_time() - start
            if note["records"] != arguments.records:
                raise SystemExit(f"{name}: {note['records']} records: {note['skipped'][:1]}")
            size = note["bytes"] / note["records"] / 1e6
            print(
                f"{name}: {1000 * seconds / note['records']:.0f} s of CPU for a thousand, "
                f"{size:.2f} MB a record",
                flush=True,
            )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
