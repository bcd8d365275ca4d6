"""Reads the tensors of weights files, and collects metadata from them, config.json and names.

.safetensors needs no torch. .pth and .bin are read only by torch with weights_only=True, because
unpickling can run code.
"""

import dataclasses
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, for safetensors)
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open

from depth_anything_jax.checkpoints import convert, int8_files, released, weight_metadata
from depth_anything_jax.utils import json_files
from depth_anything_jax.utils.nested_dicts import flatten
from depth_anything_jax.utils.paths import is_remote

DEMO_ENCODER = "demo-encoder"
METADATA_KEY = "depth_anything_jax"  # of our JSON in a safetensors file's metadata
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_LOCAL = ("runs/", "./", "../", "/", "~")  # a path, though "owner/name" could be read into it
_ASSETS = pathlib.Path(__file__).parent.parent / "assets"


@dataclasses.dataclass
class Found:
    """Tensors and metadata of a source.

    Attributes:
      state: tensors under canonical torch names, or under their paths in a checkpoint of ours.
      hints: what is said about the model, the most reliable first: "origin" (who says so),
        "authoritative" (False for a guess from a name), and some of variant, version, head,
        max_depth, taps, licence.
      metadata: of the file or checkpoint.
      name: for licence chains, without local folders.
      layout: of the tensors' names; None: to be detected from them.
    """

    state: dict[str, Any]
    hints: list[dict[str, Any]]
    metadata: dict[str, Any]
    name: str
    layout: convert.Layout | None = None


def find(source: str) -> Found:
    """Reads tensors and hints of a file, a folder, a Hub repository or "demo-encoder".

    Raises:
      FileNotFoundError: nothing there; the message says what to put where.
      ImportError: a torch file, and torch is not installed.
      ValueError: not a weights file.
    """
    if source == DEMO_ENCODER:
        found = _file(epath.Path(_ASSETS / "demo_encoder.safetensors"))
        return dataclasses.replace(found, name=DEMO_ENCODER)
    scheme = re.match(r"([\w+.-]+)://", source)
    if scheme and scheme[1].lower() not in ("gs", "s3"):
        raise ValueError(
            f"{source}: addresses are not fetched; download the file and give its path, or of a "
            "repository on the Hugging Face Hub 'owner/name'"
        )
    path = epath.Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".tar" and path.exists() and not is_remote(path):
        return _orbax(path)
    if path.exists():
        return _file(path)
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith(_LOCAL)
    if hub_id and path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        other = re.search(r"(video|prompt)-?depth-?anything|/da3|depth-?anything-?3", source, re.I)
        if other:
            raise ValueError(
                f"{source}: another network than Depth Anything V1 or V2, which is not supported"
            )
        known = released.by_repo(source)
        if known and known.file.endswith(TORCH_SUFFIXES):
            _torch(source, known)  # before the download, not after it
        try:
            found = _folder(epath.Path(released.fetch(source)))
        except FileNotFoundError as error:
            if path.parent.is_dir():  # more likely meant than a Hub user of that name
                raise FileNotFoundError(
                    f"no such folder: {path}, though {path.parent} is one. "
                    f"As a name on the Hugging Face Hub: {error}"
                ) from error
            raise
        if known:
            found.hints.append(_known_hint(known))
        return dataclasses.replace(found, name=source)
    raise FileNotFoundError(
        f"no weights at {source!r}: no such file or folder. A run's folder appears with its first "
        "checkpoint; else give a .safetensors, .pth, .ckpt or .bin file, a folder of "
        "transformers', an Orbax checkpoint, the mirror of a run, a Hugging Face id such as "
        f"'LiheYoung/depth-anything-small-hf', or {DEMO_ENCODER!r}"
    )


def _folder(folder: epath.Path) -> Found:
    """Reads a folder of weights files, or an Orbax checkpoint."""
    shards = folder / "model.safetensors.index.json"
    if shards.exists():
        names = _shards(shards)
    else:
        names = _weights_file(folder)
    if not names:
        return _orbax(folder)
    parts = [_file(folder / name) for name in names]
    found = dataclasses.replace(parts[0], name=folder.name)
    for part in parts[1:]:
        found.state |= part.state
    said = [_config_hint(folder / "config.json"), _readme_hint(folder / "README.md")]
    found.hints[:0] = [hint for hint in said if hint]
    return found


def _shards(index: epath.Path) -> list[str]:
    """The files that a model.safetensors.index.json names, all of them in its folder."""
    named = json_files.read(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{index}: no 'weight_map' of tensors and files in it")
    names = {str(name) for name in named.values()}
    for name in sorted(names):
        if name != pathlib.PurePath(name).name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index}: the file {name!r} is not a .safetensors file in the same folder"
            )
        if not (index.parent / name).exists():
            raise FileNotFoundError(f"{index}: names {name!r}, which is not there; download it")
    return sorted(names)


def _weights_file(folder: epath.Path) -> list[str]:
    present = sorted(p.name for p in folder.iterdir())
    for name in ("model.safetensors", "pytorch_model.bin"):
        if name in present:
            return [name]
    for suffixes in ((".safetensors",), TORCH_SUFFIXES):
        names = [name for name in present if name.endswith(suffixes)]
        if len(names) > 1:
            raise ValueError(f"{folder} holds {', '.join(names)}; give the path of one of them")
        if names:
            return names
    return []


def _file(path: epath.Path) -> Found:
    read = _reader(path)
    with tempfile.TemporaryDirectory() as scratch:
        local = pathlib.Path(path)
        if is_remote(path):
            local = pathlib.Path(scratch, path.name)
            path.copy(local)
            notes = _notes(path)  # a .pth's licence, head and range
            if notes.exists():
                notes.copy(_notes(local))
        state, metadata = read(local)
    hints = []
    weight_metadata.check(metadata, str(path))
    if metadata:
        hints.append({"origin": "its metadata", **metadata, "authoritative": True})
    known = released.by_path(path)
    if known:
        hints.append(_known_hint(known))
    elif guessed := released.guess(path):
        hints.append({"origin": f"the name {path.name}", "authoritative": False, **guessed})
    return Found(convert.canonical(state, str(path)), hints, metadata, path.name)


def _reader(path: epath.Path) -> Callable[[pathlib.Path], tuple[dict[Any, Any], dict[str, Any]]]:
    """Finds the reader of a file by its first bytes, and by its suffix where they tell nothing.

    safetensors begin with the length of a JSON object, in eight bytes; torch's are zip archives
    or pickles.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().length:
        return _safetensors
    suffix = path.suffix.lower()
    pickled = start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    zipped = start.startswith(b"PK\x03\x04") and suffix != ".npz"
    if pickled or zipped or suffix in TORCH_SUFFIXES:
        return _pickled
    if suffix == ".safetensors":
        return _safetensors
    every = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise ValueError(f"{path}: weights are read from {every} files and folders")


def _safetensors(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            state = {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from error
    state = int8_files.joined(state, str(path))
    return state, json_files.parse(metadata.get(METADATA_KEY, "{}"), f"{path}, its metadata")


def _tensor(file: Any, name: str, path: pathlib.Path) -> np.ndarray:
    kind = file.get_slice(name).get_dtype()
    if kind not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {name} is {kind}; weights are read in {', '.join(_DTYPES)}: convert "
            "them to one of these"
        )
    return file.get_tensor(name)


def _pickled(path: pathlib.Path) -> tuple[dict[Any, Any], dict[str, Any]]:
    torch = _torch(str(path), released.by_path(path))
    _refuse_compressed(path)
    try:
        with path.open("rb") as file:  # of a path it would read the suffix, too
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own, zip's, torch's: all mean the same here
        raise ValueError(
            f"{path} holds more than tensors, or is damaged ({_first_line(error)}). Only "
            "tensors are read, as anything else could run code. If you trust the file, load it "
            "in torch yourself and save its state_dict() alone"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a dict of tensors")
    notes = _notes(path)
    return _to_numpy(state, str(path)), json_files.read(notes) if notes.exists() else {}


def _notes(path: Any) -> Any:
    """Path of the metadata that `export` writes beside a torch file, which cannot hold them."""
    return path.with_name(path.name + ".json")


def _refuse_compressed(path: pathlib.Path) -> None:
    """torch.save stores tensors as they are; a small compressed file could fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [x.filename for x in archive.infolist() if x.file_size > x.compress_size]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if packed:
        raise ValueError(
            f"{path}: {packed[0]!r} in it is compressed, which torch.save never does; load it in "
            "torch yourself, if you trust it, and save it again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_numpy(tree: Any, source: str, name: str = "") -> Any:
    """Converts the tensors in nested dicts to arrays; other values stay."""
    if isinstance(tree, Mapping):
        return {key: _to_numpy(x, source, str(key)) for key, x in tree.items()}
    if not hasattr(tree, "detach"):
        return tree
    tensor = tree.detach()
    kinds = {
        "sparse": tensor.layout != _torch(source, None).strided,
        "quantised": tensor.is_quantized,
        "on the device 'meta', without values": tensor.is_meta,
    }
    for kind, found in kinds.items():
        if found:
            raise ValueError(
                f"{source}: tensor {name} is {kind}; only dense tensors of plain numbers are read"
            )
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():  # a small file of GBs
        raise ValueError(
            f"{source}: tensor {name} of {tuple(tensor.shape)} repeats fewer stored numbers; save "
            "its contiguous()"
        )
    if tensor.is_floating_point() and tensor.itemsize < 4:
        tensor = tensor.float()
    try:
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{source}: tensor {name} of {tensor.dtype} has no counterpart in numpy "
            f"({_first_line(error)})"
        ) from error


def _torch(source: str, known: released.Released | None) -> Any:
    try:
        import torch
    except ImportError as error:
        instead = (known and known.safetensors_repo) or "a .safetensors copy of it"
        raise ImportError(
            f"{source} is a torch file, which only torch reads: pip install "
            f"'depth_anything_jax[torch]', or use {instead} (safetensors, needs no torch)"
        ) from error
    return torch


def _orbax(folder: epath.Path) -> Found:
    """Reads an Orbax checkpoint, the mirror of a run, or one of its archives."""
    from depth_anything_jax.checkpoints import mirror_archives  # Orbax takes seconds to import

    try:
        params, meta = mirror_archives.load_params(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds neither weights (model.safetensors, …) nor an Orbax checkpoint, nor "
            f"is it the mirror of a run ({error})"
        ) from error
    weight_metadata.check(meta, str(folder))
    hints = [{"origin": "the checkpoint", **meta, "authoritative": True}]
    return Found(flatten(params), hints, meta, folder.name, convert.FLAX)


def _known_hint(known: released.Released) -> dict[str, Any]:
    facts = known._asdict()
    facts = {k: facts[k] for k in ("variant", "version", "head", "max_depth", "licence")}
    return {"origin": f"the name {known.repo or known.file}", "authoritative": False, **facts}


def _config_hint(path: epath.Path) -> dict[str, Any] | None:
    """Reads the hint of a config.json: transformers', or the official code's Hub mixin's."""
    if not path.exists():
        return None
    config = json_files.read(path)
    hint: dict[str, Any] = {"origin": "config.json", "authoritative": True}
    if "encoder" in config:
        odd = [name for name in ("use_bn", "use_clstoken") if config.get(name)]
        if odd:
            raise ValueError(f"{path}: models with {' and '.join(odd)} are not supported")
        weight_metadata.check({"variant": config["encoder"]}, f"{path}, encoder")
        return {**hint, "variant": config["encoder"]}
    if config.get("model_type") != "depth_anything":
        return hint
    hint["head"] = "relative"
    if config.get("depth_estimation_type") == "metric":
        hint["head"] = "sigmoid"
        hint["max_depth"] = config.get("max_depth")
        weight_metadata.check(hint, str(path))
    backbone = config.get("backbone_config") or {}
    if not isinstance(backbone, dict):
        raise ValueError(f"{path}: backbone_config={backbone!r} is not an object")
    if backbone.get("model_type", "dinov2") != "dinov2":
        raise ValueError(
            f"{path}: the backbone is {backbone['model_type']!r}; only 'dinov2' is supported"
        )
    try:
        stages = backbone.get("out_indices") or [
            int(name.removeprefix("stage")) for name in backbone.get("out_features") or []
        ]
        # transformers counts from the embedding, 0, and from the last block, -1
        depth = backbone.get("num_hidden_layers", 12)
        taps = tuple((i if i >= 0 else depth + 1 + i) - 1 for i in stages)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: backbone_config does not list the tapped blocks ({error}): out_indices are "
            "whole numbers, out_features like 'stage9'"
        ) from error
    if taps:
        hint["taps"] = taps
    return hint


def _readme_hint(path: epath.Path) -> dict[str, Any] | None:
    """Reads the licence in the front matter of a model card."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        text = file.read(json_files.MOST_BYTES).decode("utf-8", "replace")
    match = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    match = match and re.search(r"^license: *['\"]?([\w.-]+)", match.group(1), re.MULTILINE)
    if not match or match.group(1).lower() == "other":
        return None
    return {"origin": "README.md", "authoritative": False, "licence": match.group(1)}
