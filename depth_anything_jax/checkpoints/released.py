"""Released models: names, properties that their files lack, licences, and download.

Checkpoints of the official code hold only tensors: not the version (which blocks are tapped), the
kind of head or the metric range. This module has them for the released models.
"""

import pathlib
import re
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub.errors import RepositoryNotFoundError

from depth_anything_jax.checkpoints import licences

_SIZES = {"vits": "Small", "vitb": "Base", "vitl": "Large", "vitg": "Giant"}
_METRIC = (("Indoor", "Hypersim", 20.0), ("Outdoor", "VKITTI", 80.0))  # Depth Anything V2, metric
_BINS = (("indoor", 10.0), ("outdoor", 80.0))  # V1's: NYU and KITTI, ViT-L alone


class Released(NamedTuple):
    """A released model.

    Attributes:
      repo: its repository on the Hugging Face Hub, or None (the file lies elsewhere).
      file: its weights' file name.
      variant, version, head, max_depth, licence: as in `bundle.Weights`; version None: an
        encoder.
      safetensors_repo: the repository with the same weights as .safetensors, or None.
    """

    repo: str | None
    file: str
    variant: str
    version: str | None
    head: str
    max_depth: float | None
    licence: str
    safetensors_repo: str | None


def _models() -> list[Released]:
    models = []

    def add(repo, file, variant, version, port, max_depth=None, head="sigmoid"):
        head = "relative" if max_depth is None else head
        licence = licences.released(version or "dinov2", variant)
        models.append(Released(repo, file, variant, version, head, max_depth, licence, port))

    for variant, size in _SIZES.items():
        port = f"facebook/dinov2-{size.lower()}"
        add(port, "model.safetensors", variant, None, port)
        add(None, f"dinov2_{variant}14_pretrain.pth", variant, None, port)
        if variant == "vitg":  # of Depth Anything, announced but never released
            continue
        port = f"LiheYoung/depth-anything-{size.lower()}-hf"
        add(port, "model.safetensors", variant, "v1", port)
        add(f"LiheYoung/depth_anything_{variant}14", "pytorch_model.bin", variant, "v1", port)
        add(None, f"depth_anything_{variant}14.pth", variant, "v1", port)
        base = "depth-anything/Depth-Anything-V2"
        port = f"{base}-{size}-hf"
        add(port, "model.safetensors", variant, "v2", port)
        add(f"{base}-{size}", f"depth_anything_v2_{variant}.pth", variant, "v2", port)
        for place, data, metres in _METRIC:
            port = f"{base}-Metric-{place}-{size}-hf"
            add(port, "model.safetensors", variant, "v2", port, metres)
            file = f"depth_anything_v2_metric_{data.lower()}_{variant}.pth"
            add(f"{base}-Metric-{data}-{size}", file, variant, "v2", port, metres)
    for place, metres in _BINS:
        file = f"depth_anything_metric_depth_{place}.pt"
        add(None, file, "vitl", "v1", None, metres, head="bins")
    return models


MODELS = _models()
_BY_REPO = {m.repo.lower(): m for m in MODELS if m.repo}
_BY_FOLDER = {m.repo.split("/")[1].lower(): m for m in MODELS if m.repo}
_BY_STEM = {pathlib.Path(m.file).stem: m for m in MODELS if m.file.endswith((".pth", ".pt"))}
# What users and browsers add to a released file's name for the same contents.
_SUFFIX = re.compile(
    r"([._ -]*(partial|fp16|fp32|bf16|float16|float32|bfloat16|copy|\(\d+\)))*", re.IGNORECASE
)
_V2 = re.compile(r"depth[ _-]?anything[ _-]?v2|(^|[ _-])dav2([ _.-]|$)", re.IGNORECASE)
_V1 = re.compile(
    r"depth[ _-]?anything([ _-]?v1|[ _-](vit[sbl]|small|base|large)(14)?)", re.IGNORECASE
)
_METRES = re.compile(r"metric|hypersim|v?kitti", re.IGNORECASE)


def by_repo(repo: str) -> Released | None:
    """Returns the released model of a Hub repository ("owner/name"), or None."""
    return _BY_REPO.get(repo.lower())


def by_path(path: str | pathlib.PurePath) -> Released | None:
    """Returns the released model that a file or its folder is named after, or None."""
    path = pathlib.PurePath(path)
    for stem, model in _BY_STEM.items():
        if path.stem.startswith(stem) and _SUFFIX.fullmatch(path.stem[len(stem) :]):
            return model
    folder = path.parent if path.suffix in (".safetensors", ".bin") else path
    return _BY_FOLDER.get(folder.name.lower())


def guess(path: str | pathlib.PurePath) -> dict[str, Any]:
    """Returns what a file's name tells that is not a released one: version, and head of metres.

    Of "my_depth_anything_v2_finetuned.pth" {"version": "v2"}; nothing of other names.
    """
    name = pathlib.PurePath(path).name
    version = "v2" if _V2.search(name) else "v1" if _V1.search(name) else None
    if version is None:
        return {}
    return {"version": version} | ({"head": "sigmoid"} if _METRES.search(name) else {})


def fetch(repo: str) -> pathlib.Path:
    """Downloads a repository's weights and settings, or finds them in the Hub's local cache.

    Args:
      repo: "owner/name"; of a released model its one file, else `model*.safetensors`.
    Returns:
      The local folder.
    Raises:
      FileNotFoundError: there is no such repository, it has no such file, or there is no network;
        the message says what to download and where to put it.
    """
    known = by_repo(repo)
    file = known.file if known else "model.safetensors"
    wanted = [file] if known else ["model*.safetensors", "model.safetensors.index.json"]
    url = f"https://huggingface.co/{repo}"
    try:
        folder = huggingface_hub.snapshot_download(
            repo, allow_patterns=[*wanted, "config.json", "README.md"]
        )
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo!r} is neither a file or folder here nor a repository at {url} that you may "
            "read; check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except Exception as error:  # offline, proxy, disk: the Hub's client has a dozen kinds
        cached = huggingface_hub.try_to_load_from_cache(repo, file)
        if isinstance(cached, str):  # all that is needed, though not all that was asked for
            return pathlib.Path(cached).parent
        raise FileNotFoundError(_by_hand(repo, file, url, _reason(error))) from error
    if not any(next(pathlib.Path(folder).glob(pattern), None) for pattern in wanted):
        raise FileNotFoundError(_by_hand(repo, file, url, f"{file} is not in what it holds"))
    return pathlib.Path(folder)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _by_hand(repo: str, file: str, url: str, reason: str) -> str:
    name = repo.split("/")[1]
    return (
        f"there is no file or folder {repo!r} here, and the Hugging Face Hub gave nothing "
        f"({reason}).\nOn a machine with a network download\n  {url}/resolve/main/{file}\n"
        f"  {url}/resolve/main/config.json (if the repository has one)\n"
        f"put them in a folder called {name!r}, and give that folder's path instead of {repo!r}."
    )
