"""Writes tiny training sets in the layouts that they are downloaded in."""

import io
import pathlib
import tarfile

import cv2
import numpy as np

from tests.helpers.benchmark_files import png16, write, write_image


def jpeg(height: int = 6, width: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def hdf5(path: pathlib.Path, name: str, values: np.ndarray) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, compression="gzip", compression_opts=9)


def exr(path: pathlib.Path, **channels: np.ndarray) -> None:
    import OpenEXR

    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(path))


def tar(path: pathlib.Path, files: dict[str, bytes], *, mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def cut(path: pathlib.Path, share: float = 0.5) -> None:
    """Cuts off the end of a file, as a download that was interrupted."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


SIMPLE = np.array([[0.5773502886169104, 0, 0], [0, 0.4330127164626828, 0], [0, 0, -1]])
TILTED = np.array([[0.5, 0, 0.02], [0, 0.375, -0.01], [0.01, 0.15, -1]])
FRAME_COLUMNS = (
    "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name"
)


def hypersim_tables(root: pathlib.Path, cameras: dict[str, np.ndarray], frames: list[str]) -> None:
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    rows = [",".join([scene, *(repr(float(v)) for v in M.ravel())]) for scene, M in cameras.items()]
    header = ",".join(["scene_name", *names])
    write(root / "metadata_camera_parameters.csv", "\n".join([header, *rows]) + "\n")
    write(root / "metadata_images_split_scene_v1.csv", "\n".join([FRAME_COLUMNS, *frames]) + "\n")


def hypersim_frame(root, scene, camera, frame, distance) -> None:
    images = root / scene / "images"
    height, width = distance.shape
    write_image(
        images / f"scene_{camera}_final_preview" / f"frame.{frame:04d}.tonemap.jpg", height, width
    )
    geometry = images / f"scene_{camera}_geometry_hdf5"
    hdf5(geometry / f"frame.{frame:04d}.depth_meters.hdf5", "dataset", distance)
    hdf5(geometry / f"frame.{frame:04d}.normal_cam.hdf5", "dataset", distance)


def vkitti_frame(rgb, depth, scene, variation, camera, frame, values) -> None:
    below = f"{scene}/{variation}/frames"
    height, width = values.shape
    write_image(rgb / below / f"rgb/Camera_{camera}/rgb_{frame:05d}.jpg", height, width)
    write(depth / below / f"depth/Camera_{camera}/depth_{frame:05d}.png", png16(values))


def packed_png(depth: np.ndarray) -> bytes:
    """TartanAir v2's depth: float32 whose bytes OpenCV writes as B, G, R, alpha."""
    bgra = np.ascontiguousarray(depth, "<f4").view(np.uint8).reshape(*depth.shape, 4)
    return cv2.imencode(".png", bgra)[1].tobytes()


def cam_txt(K: np.ndarray, nearest: float) -> str:
    matrix = "\n".join(" ".join(map(str, row)) for row in np.eye(4))
    inner = "\n".join(" ".join(map(str, row)) for row in K)
    return f"extrinsic\n{matrix}\n\nintrinsic\n{inner}\n\n{nearest} 0.01 128 9.0\n"
