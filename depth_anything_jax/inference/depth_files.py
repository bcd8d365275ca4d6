"""Writes and reads depth maps: 16-bit PNG, npz and EXR with kind and scale, npy, PFM."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.inference import camera_intrinsics
from depth_anything_jax.utils import json_files, map_kinds, partial_files
from depth_anything_jax.utils.formatting import shortened
from depth_anything_jax.utils.sixteen_bits import WHITE, fitting_scale

# Kinds of depth maps, of which larger is nearer and farther.
KINDS = map_kinds.SAVED
RELATIVE, METRIC = KINDS
KEY = "depth_anything_jax"  # of our JSON in the metadata of PNG, npz and EXR
SUFFIXES = (".png", ".npy", ".npz", ".pfm", ".exr")
_CHANNEL: dict[str, str] = {METRIC: "Z", RELATIVE: "Y"}
_NEED_EXR = "{}: EXR files need OpenEXR: pip install 'depth_anything_jax[exr]'"


@runtime_checkable
class DepthMap(Protocol):
    """The properties of `Depth` that files and point clouds use."""

    @property
    def depth(self) -> np.ndarray:
        """float32 (h, w)."""
        ...

    @property
    def kind(self) -> str:
        """RELATIVE or METRIC."""
        ...

    @property
    def unit(self) -> str | None:
        """ "m", or None."""
        ...

    @property
    def image(self) -> np.ndarray | None:
        """RGB (h, w, 3), or None."""
        ...

    @property
    def intrinsics(self) -> camera_intrinsics.Intrinsics | None:
        """Of the picture, or None."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """JSON values that go into files."""
        ...


def save(
    depth: DepthMap, path: str | os.PathLike[str], *, png_scale: float | None, invert: bool
) -> None:
    """See `Depth.save`."""
    path = pathlib.Path(path).expanduser()
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"{path}: depth is saved as {', '.join(SUFFIXES)}; a picture in colours is "
            "depth.to_pil().save(…), points are depth.to_point_cloud(…).save(…)"
        )
    check_scale(png_scale)
    if png_scale is None:
        png_scale = fitting_scale(depth.depth)
    with replaced(path) as part:
        write(depth, part, {"png_scale": float(png_scale), "invert": invert, "name": path})


def check_scale(png_scale: float | None) -> None:
    """Raises ValueError unless `png_scale` is a number above 0, or None."""
    if png_scale is not None and not (np.isfinite(png_scale) and png_scale > 0):
        raise ValueError(f"png_scale={png_scale}: PNG units in a metre, above 0")


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary file, which replaces `path` when the block ends without an error.

    Raises:
      OSError: it cannot be written; the message names the file.
    """
    try:
        part = partial_files.create(path, path.suffix)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        yield part
        partial_files.publish(part, path)
    except OSError as error:  # mostly a full disk
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


def _facts(depth: DepthMap, **more: Any) -> str:
    facts = {"kind": depth.kind, "unit": depth.unit, "meta": dict(depth.meta), **more}
    if depth.intrinsics is not None:
        facts["intrinsics"] = list(depth.intrinsics)
    return json.dumps(facts)


# Writers


def _write_png(depth: DepthMap, path: pathlib.Path, how: dict[str, Any]) -> None:
    from PIL import Image, PngImagePlugin

    pixels, scale, offset, words = (_metric_png if depth.unit else _relative_png)(depth.depth, how)
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", words)
    text.add_text(KEY, _facts(depth, scale=scale, offset=offset))
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=text, compress_level=4)


def _metric_png(metres: np.ndarray, how: dict[str, Any]) -> tuple[np.ndarray, float, float, str]:
    units, name = how["png_scale"], how["name"]
    finite = np.isfinite(metres)
    scaled = np.round(np.where(finite, metres, 0).astype(np.float64) * units)
    if scaled.max() > WHITE:
        beyond = float(metres[finite].max())
        advice = "png_scale=256 reaches 255 m" if beyond * 256 <= WHITE else "png_scale lower"
        raise ValueError(
            f"{name}: depth reaches {beyond:.1f} m, a 16-bit PNG of {units:g} units a metre "
            f"{WHITE / units:.3f} m; use {advice}, or .npy, .pfm, .exr"
        )
    if scaled.min() < 0:
        raise ValueError(f"{name}: depth of {float(metres[finite].min()):.3g} m is negative")
    scaled[finite & (metres > 0) & (scaled == 0)] = 1  # near, not unknown
    words = f"metric depth; metres = pixel / {units:g}; 0: none, or infinitely far"
    return scaled.astype(np.uint16), 1 / units, 0.0, words


def _relative_png(values: np.ndarray, how: dict[str, Any]) -> tuple[np.ndarray, float, float, str]:
    if not np.isfinite(values).all():
        raise ValueError(
            f"{how['name']}: {int((~np.isfinite(values)).sum())} values are not finite, which a "
            "16-bit PNG of relative depth cannot say; use .npy, .npz, .pfm or .exr"
        )
    low, high = float(values.min()), float(values.max())
    offset, span = (high, low - high) if how["invert"] else (low, high - low)
    share = (values.astype(np.float64) - offset) / (span or 1.0)
    words = (
        f"relative inverse depth, larger is nearer, up to scale and shift; value = pixel * "
        f"{span / WHITE!r} + {offset!r}"
    )
    return np.round(share * WHITE).astype(np.uint16), span / WHITE, offset, words


def _write_npy(depth: DepthMap, path: pathlib.Path, how: dict[str, Any]) -> None:
    np.save(path, depth.depth)


def _write_npz(depth: DepthMap, path: pathlib.Path, how: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {
        "depth": depth.depth,
        "kind": np.array(depth.kind),
        "unit": np.array(depth.unit or ""),
        KEY: np.array(_facts(depth)),
    }
    np.savez_compressed(path, **arrays)


def _write_pfm(depth: DepthMap, path: pathlib.Path, how: dict[str, Any]) -> None:
    path.write_bytes(formats.encode_pfm(depth.depth))


def _write_exr(depth: DepthMap, path: pathlib.Path, how: dict[str, Any]) -> None:
    exr = open_exr(how["name"])
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage, KEY: _facts(depth)}
    exr.File(header, {_CHANNEL[depth.kind]: depth.depth}).write(str(path))


_WRITERS: dict[str, Callable[[Any, pathlib.Path, dict[str, Any]], None]] = {
    ".png": _write_png,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".pfm": _write_pfm,
    ".exr": _write_exr,
}


# Readers


def load(path: str | os.PathLike[str], kind: str | None) -> dict[str, Any]:
    """Reads the fields of the `Depth` in a file; see `Depth.load`."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r}: one of {', '.join(map(repr, KINDS))}")
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: depth is read from {', '.join(SUFFIXES)}")
    facts: dict[str, Any] | None = None
    if suffix == ".exr":
        values, facts = _read_exr(path)
    else:
        data = formats.read_bytes(path)
        if suffix == ".png":
            values, facts = _read_png(data, path)
        elif suffix == ".pfm":
            values = formats.decode_pfm(data, path)
        elif suffix == ".npz":
            values = formats.decode_array(data, path, "depth")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                facts = _parsed(str(arrays[KEY]), path) if KEY in arrays else None
        else:
            values = formats.decode_array(data, path)
    if facts is None:
        if kind is None:
            raise ValueError(
                f"{path} does not say what its numbers are; pass kind={RELATIVE!r} or "
                f"kind={METRIC!r}"
            )
        return {"depth": values.astype(np.float32), "kind": kind}
    if kind not in (None, facts["kind"]):
        raise ValueError(f"{path} holds {facts['kind']}, not {kind}; leave kind out")
    given = facts.get("intrinsics")
    return {
        "depth": values.astype(np.float32),
        "kind": facts["kind"],
        "intrinsics": None if given is None else camera_intrinsics.Intrinsics(*given),
        "meta": facts.get("meta", {}),
    }


def _parsed(text: str, path: pathlib.Path) -> dict[str, Any]:
    facts = json_files.parse(text, f"{path}, its metadata")
    if facts.get("kind") not in KINDS:
        kind = shortened(facts.get("kind"))
        raise ValueError(f"{path}: kind={kind} in its metadata is not one of {KINDS}")
    given, meta = facts.get("intrinsics"), facts.get("meta", {})
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: meta={shortened(meta)} in its metadata is not an object")
    if given is not None and not (
        isinstance(given, list)
        and 4 <= len(given) <= 5
        and all(isinstance(x, int | float) for x in given[:4])
    ):
        raise ValueError(
            f"{path}: intrinsics={shortened(given)} in its metadata are not fx, fy, cx, cy"
        )
    return facts


def has_metadata(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG or npz was written by `save`, with kind and scale."""
    from PIL import Image

    path = pathlib.Path(path)
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                return KEY in getattr(image, "text", {})
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return KEY in arrays
    except Exception:  # not such a file: reading it reports that
        return False
    return False


def _read_png(data: bytes, path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise ValueError(
            f"{path} was not written by Depth.save, and does not say what its pixels are; "
            "depth_anything_jax.data.file_formats.formats.read_label reads PNGs of a known scale"
        )
    facts = _parsed(text, path)
    for name in ("scale", "offset"):
        if not isinstance(facts.get(name), int | float):
            raise ValueError(f"{path}: its metadata have no number {name!r}; it was changed")
    pixels = formats.decode_raw(data, path, bits=16)
    values = pixels.astype(np.float64) * facts["scale"] + facts["offset"]
    if facts["kind"] == METRIC:
        values[pixels == 0] = np.nan
    return values, facts


def _read_exr(path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any] | None]:
    exr = open_exr(path)
    with exr.File(str(path)) as file:
        channels, text = file.channels(), file.header().get(KEY)
        facts = None if text is None else _parsed(text, path)
        name = _CHANNEL[facts["kind"]] if facts else next(iter(channels))
        return np.array(channels[name].pixels, np.float32), facts


def open_exr(name: Any) -> Any:
    """Imports OpenEXR; raises ImportError that names the extra and what needs it (`name`)."""
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError(_NEED_EXR.format(name)) from error
    return OpenEXR
