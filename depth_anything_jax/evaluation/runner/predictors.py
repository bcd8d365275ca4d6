"""Makes candidates for scoring from checkpoints, transformers models, files and baselines.

    make("runs/student")               weights of ours, PyTorch's or the hub's, as `pretrained.load`
    make("transformers:FOLDER_OR_ID")  any depth-estimation model of transformers (extra [torch])
    make("predictions:FOLDER", kind=…) files named after the images: .npy .npz .png .pfm .exr, or a
                                       folder of the predict program, whose files know their kind
    make("baseline:gt")                also zero and mean: scores any evaluator must get right

The kind of a prediction decides how it may be aligned:
  disparity-affine  inverse depth up to scale and shift (Depth Anything, MiDaS)
  depth-affine      depth up to scale and shift (Marigold)
  depth-scale       depth up to scale
  metric            metres
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from depth_anything_jax.data import transforms
from depth_anything_jax.data.sources.view import check_same_view
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols.protocol import (
    KINDS,
    Protocol,
    ProtocolError,
    Switches,
)
from depth_anything_jax.evaluation.runner import prediction_files, prediction_folder
from depth_anything_jax.evaluation.scores import scoring
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.map_kinds import MapKind

if TYPE_CHECKING:  # it brings jax, which takes seconds to start
    from depth_anything_jax.checkpoints.bundle import ModelBundle

BASELINES = ("zero", "mean", "gt")
# Kinds of transformers' models by model_type; a Depth Anything config states its kind.
TRANSFORMERS_KINDS = {
    "dpt": MapKind.DISPARITY_AFFINE,  # MiDaS 3.0 and 3.1; others may predict metres: `make`'s kind
    "glpn": MapKind.METRIC,
    "zoedepth": MapKind.METRIC,
    "depth_pro": MapKind.METRIC,
}

Record = Mapping[str, Any]
Maps = Iterator[tuple[Any, np.ndarray]]


class Candidate(NamedTuple):
    """Something to be scored: it either predicts from images or looks predictions up by record.

    Attributes:
      name: as given by the user.
      kind: one of KINDS.
      prepare: RGB image (h, w, 3) uint8, short side of the protocol → the input of `predict`;
        called in threads.
      predict: (tag, prepared image) pairs → (tag, map (h, w)) at any resolution, in any order.
      lookup: record, protocol → the map of its whole image, or None where there is none.
      own_size: whether `prepare` ignores the protocol's size because all inputs have one shape.
      learned_at: short side at which a metric network was trained; it predicts other metres at
        other sizes.
      identity: distinguishes these weights or files from others of the same name.
      stats: statistics of the last call of `predict`, where it runs in batches.
      origin: the name under which these weights were released, where it is known: the argument of
        `published.model_of`.
      focal: focal length of a network that predicts canonical depth (`outputs.to_metres`).
    """

    name: str
    kind: str
    prepare: Callable[[np.ndarray, int], Any] = transforms.OFFICIAL_INPUT
    predict: Callable[[Iterable[tuple[Any, Any]]], Maps] | None = None
    lookup: Callable[[Record, Switches], np.ndarray | None] | None = None
    own_size: bool = False
    learned_at: int | None = None
    identity: str = ""
    stats: Any = None
    origin: str = ""
    focal: float | None = None


def make(
    source: str,
    *,
    kind: str | None = None,
    batch_size: int = 0,
    keys: Sequence[str] = (),
    known: Sequence[str] = (),
    allow_missing_files: bool = False,
    load: Mapping[str, Any] | None = None,
) -> Candidate:
    """Makes the candidate that a source string names.

    Args:
      source: see the module's docstring.
      kind: one of KINDS; required by predictions: of other tools, used for transformers' "dpt"
        models, whose config does not state what they predict, and only checked where the source
        states its kind.
      batch_size: images per batch, for weights; 0: one per device.
      keys: the images to be scored; predictions: must have a file for each.
      known: keys of other images whose files may be in the folder.
      allow_missing_files: whether predictions: may lack files; those images are not predicted.
      load: further arguments of `pretrained.load`.

    Raises:
      ValueError: an unknown baseline or kind, a kind that contradicts the source, files
        that are missing or that belong to no image (all listed).
      FileNotFoundError: the folder or the weights do not exist.
      ImportError: PyTorch is needed and not installed.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r}: one of {', '.join(KINDS)}")
    prefix, _, rest = source.partition(":")
    if prefix == "baseline":
        return _baseline(source, rest, kind or MapKind.DISPARITY_AFFINE)
    if prefix == "predictions":
        return _files(source, kind, keys, known, allow_missing_files)
    if prefix == "transformers":
        found = _transformers(rest, kind)
    else:
        found = _weights(source, batch_size, load or {})
    if kind not in (None, found.kind):
        raise ValueError(f"kind={kind!r}, but {source} predicts {found.kind}; leave kind out")
    return found


# Baselines


def _baseline(source: str, name: str, kind: str) -> Candidate:
    if name not in BASELINES:
        raise ValueError(f"{source}: baselines are {', '.join(BASELINES)}")

    def lookup(record: Record, protocol: Switches) -> np.ndarray:
        if not isinstance(protocol, Protocol):  # pairs of points
            if name != "zero":
                raise ProtocolError(
                    f"{source}: {record['key']} is labelled with pairs of points and has no depth "
                    f"for {name!r}; use baseline:zero, where every pair is a tie, or predictions: "
                    "with maps from files"
                )
            return np.zeros(record["image"].shape[:2])
        whole = np.full(record["valid"].shape, np.nan)
        window = protocols.window(protocol.frame, *whole.shape)
        whole[window] = scoring.truth(record, kind, protocol)
        counts = np.isfinite(whole)
        if name == "zero":
            whole[counts] = 0
        elif name == "mean" and counts.any():
            whole[counts] = whole[counts].mean()
        return whole

    return Candidate(source, kind, lookup=lookup)


# Files of any tool


def _files(
    source: str,
    kind: str | None,
    keys: Sequence[str],
    known: Sequence[str],
    allow_missing: bool,
) -> Candidate:
    files = prediction_folder.find(
        source, keys, kind=kind, known=known, allow_missing=allow_missing
    )
    kind = files.kind

    def lookup(record: Record, protocol: Switches) -> np.ndarray | None:
        path = files.paths.get(record["key"])
        if path is None:
            return None
        values = prediction_files.read(path, kind, inverted=files.inverted)
        # Networks have sides in multiples of 14 or 32.
        check_same_view(
            str(path), record["image"], {"prediction": values}, tolerance=0.05, fields=()
        )
        return values

    digest = hashlib.sha256()
    for path in sorted(files.paths.values()):
        stem, facts = path.relative_to(files.root).with_suffix("").as_posix(), path.stat()
        digest.update(f"{stem}\n{facts.st_size} {facts.st_mtime_ns}\n".encode(errors="replace"))
    return Candidate(source, kind, lookup=lookup, identity=digest.hexdigest())


# Networks


def of_network(
    predict: Callable[[np.ndarray], Any],
    *,
    kind: str,
    batch_size: int = 1,
    name: str = "",
    transform: transforms.InputTransform = transforms.OFFICIAL_INPUT,
) -> Candidate:
    """Makes a candidate from a function: normalised images (b, h, w, 3) → maps (b, h, w).

    It is called with exactly `batch_size` images of one shape. The transform makes them, at the
    protocol's size where it keeps the aspect ratio.
    """
    from depth_anything_jax.inference.predictor import (
        Input,
        Stats,
        predict_all,
    )

    stats = Stats()

    def predict_images(images: Iterable[tuple[Any, np.ndarray]]) -> Maps:
        stats.clear()
        inputs = (Input(tag, image) for tag, image in images)
        for out in predict_all(predict, inputs, batch_size=batch_size, stats=stats):
            yield out.tag, out.map

    def prepare(image: np.ndarray, size: int) -> np.ndarray:
        return transform(image, size if transform.keep_aspect else None)

    fixed = not transform.keep_aspect
    return Candidate(name, kind, prepare, predict_images, own_size=fixed, stats=stats)


def _weights(source: str, batch_size: int, load: Mapping[str, Any]) -> Candidate:
    from depth_anything_jax.checkpoints import pretrained
    from depth_anything_jax.checkpoints.bundle import bundle_of
    from depth_anything_jax.models.dtypes import compute_dtype
    from depth_anything_jax.utils.param_paths import fingerprint

    bundle = bundle_of(pretrained.load(source, **load), dtype=compute_dtype("auto"))
    # Imported weights have one link in their licence chain; training on them adds another.
    chain = bundle.metadata["licence_chain"]
    whole = [link["role"] for link in chain] == ["weights"] and "filled" not in bundle.metadata
    return of_bundle(bundle, batch_size=batch_size)._replace(
        identity=fingerprint(bundle.params), origin=chain[0]["source"] if whole else ""
    )


def of_bundle(bundle: ModelBundle, *, batch_size: int = 0) -> Candidate:
    """Makes a candidate from a model bundle, named after its source.

    Args:
      batch_size: images per batch; 0: one per device.
    """
    from depth_anything_jax.inference.predictor import Predictor
    from depth_anything_jax.models.outputs import raw_output

    predictor = Predictor(*bundle, output=raw_output)
    made = of_network(
        predictor,
        kind=bundle.kind,
        batch_size=batch_size or len(predictor.devices),
        name=bundle.source,
        transform=bundle.input,
    )
    side = bundle.input.short_side if bundle.is_metric and not made.own_size else None
    return made._replace(focal=bundle.focal, learned_at=side)


def _without_padding(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Removes the padding of ZoeDepth's processor from the map of an image of this shape.

    The processor's own method needs torchvision, which it needs for nothing else.
    """
    (height, width), (above, left) = shape, map(scoring.padding, shape)
    padded = interpolation.resize(values, (height + 2 * above, width + 2 * left), "bicubic")
    return padded[above : above + height, left : left + width]


def _transformers(source: str, asked: str | None) -> Candidate:
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ImportError(
            f"transformers:{source} needs PyTorch and transformers ({error}): pip install "
            "'depth_anything_jax[torch]'"
        ) from error
    try:
        processor = AutoImageProcessor.from_pretrained(source)
        model = AutoModelForDepthEstimation.from_pretrained(source).eval()
    except OSError as error:
        raise FileNotFoundError(
            f"transformers:{source}: {error}\nWithout a network, download the model's folder "
            "(config.json, preprocessor_config.json, model.safetensors) and give its path"
        ) from error
    model_type = model.config.model_type
    kind = asked if asked and model_type == "dpt" else TRANSFORMERS_KINDS.get(model_type)
    if model_type == "depth_anything":
        metric = model.config.depth_estimation_type == "metric"
        kind = MapKind.METRIC if metric else MapKind.DISPARITY_AFFINE
    if kind is None:
        known = ", ".join([*TRANSFORMERS_KINDS, "depth_anything"])
        raise ValueError(f"transformers:{source} is a {model_type!r}; supported models are {known}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)

    def prepare(image: np.ndarray, size: int) -> tuple[tuple[int, int], Any]:
        """Applies the model's own processor, at its own size, whatever the protocol's size is."""
        inputs = processor(images=np.ascontiguousarray(image), return_tensors="pt")
        return image.shape[:2], inputs

    def predict(images: Iterable[tuple[Any, Any]]) -> Maps:
        for tag, (shape, inputs) in images:
            with torch.inference_mode():
                outputs = model(**inputs.to(device))
            found = outputs.predicted_depth[0]
            if model_type == "depth_pro":  # inverse depth of a canonical camera; its field of view
                (post,) = processor.post_process_depth_estimation(outputs, target_sizes=[shape])
                found = post["predicted_depth"]
            values = found.float().cpu().numpy()
            if model_type == "zoedepth" and processor.do_pad:
                values = _without_padding(values, shape)
            yield tag, values

    from depth_anything_jax.utils.param_paths import fingerprint

    tensors = {k: v.float().cpu().numpy() for k, v in model.state_dict().items()}
    identity = fingerprint(tensors)
    return Candidate(
        f"transformers:{source}", kind, prepare, predict, identity=identity, origin=source
    )
