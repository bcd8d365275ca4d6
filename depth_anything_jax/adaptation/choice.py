"""Chooses a step of a training without labels, and measures what was forgotten.

A checkpoint is judged by how much its predictions of held-out photos agree with themselves when the
photo is mirrored, seen larger, or mildly distorted: the normalised difference of the two maps
(`metrics.normalised_l1`: 0 the same, 1 as far as a constant map), as a share of that of the model
before the training, so that no view counts more than another. The smallest mean is chosen.

A model that answers one map for all photos agrees with itself best. So steps are not chosen whose
maps of different photos differ less than VARIED of what they did before the training. The measure
is label-free and no error: with --eval, the report says how well it ranked the checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from depth_anything_jax.adaptation.identity import write
from depth_anything_jax.adaptation.plan import Plan
from depth_anything_jax.checkpoints import orbax_io, pretrained
from depth_anything_jax.checkpoints.bundle import ModelBundle, bundle_of
from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.pseudo_labels.join import reduced
from depth_anything_jax.data.sources.base import Source, disparity_of, kind_of
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.inference.predictor import Input, Predictor, predict_all, usual_batch
from depth_anything_jax.models.dtypes import compute_dtype
from depth_anything_jax.utils import interpolation, json_files

VIEWS = ("flip", "scale", "distortion")
LARGER = 1.25  # of the size, under "scale"
# Of "distortion", milder than the training's: our choice.
BLUR, NOISE, GAMMA = 1.0, 0.02, 0.8  # pixels at 518, deviation in 0-1, exponent
VARIED = 0.5  # share of the first row's variety that a step must keep; our choice
MOST_PHOTOS = 64  # held-out photos that are predicted, evenly spaced
REFERENCES = 24  # images of the clean reference set
FORGOTTEN = 0.03  # share from which on a warning is given


@dataclasses.dataclass
class Measured:
    """What a model does on photos: each view's difference per photo, and the plain maps."""

    views: dict[str, list[float]]
    maps: list[np.ndarray]

    def mean(self, view: str) -> float:
        """Returns the mean difference of a view."""
        return float(np.mean(self.views[view]))


def load(source: str, options: Mapping[str, Any]) -> ModelBundle:
    """Loads a model in the device's dtype."""
    return bundle_of(pretrained.load(source, **options), dtype=compute_dtype("auto"))


def sample(sources: Sequence[str], most: int = MOST_PHOTOS) -> list[tuple[str, np.ndarray]]:
    """Reads evenly spaced photos of sources: (path below its root, image)."""
    made = [registry.make(registry.parse(text)) for text in sources]
    every = [(source, i) for source in made for i in range(len(source))]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).astype(int))
    picked = [every[i] for i in chosen]
    return [(source.key(i), source[i]["image"]) for source, i in picked]


def distorted(image: np.ndarray, number: int) -> np.ndarray:
    """Distorts a photo mildly: blur, noise, and darker or lighter by turns."""
    rng = np.random.default_rng([number, *image.shape])
    x = image.astype(np.float32) / 255
    sigma = BLUR * min(image.shape[:2]) / 518
    x = cv2.GaussianBlur(x, (0, 0), max(sigma, 1e-3))
    x = x ** (GAMMA if number % 2 else 1 / GAMMA)
    x = x + NOISE * rng.standard_normal(x.shape).astype(np.float32)
    return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)


def measure(
    bundle: ModelBundle,
    images: Sequence[np.ndarray],
    size: int,
    *,
    mask: np.ndarray | None = None,
    views: Sequence[str] = VIEWS,
) -> Measured:
    """Predicts photos and their views, and compares each view with the plain prediction."""
    transform, predict = bundle.input, Predictor(*bundle)
    sized = size if transform.keep_aspect else None
    larger = max(transform.encoder.nearest(size * LARGER), size + transform.encoder.patch_size)

    def inputs() -> Iterator[Input]:
        for i, image in enumerate(images):
            plain = transform(image, sized)
            yield Input((i, "plain"), plain)
            if "flip" in views:
                yield Input((i, "flip"), np.ascontiguousarray(plain[:, ::-1]))
            if "scale" in views:
                yield Input((i, "scale"), transform(image, larger if sized else None))
            if "distortion" in views:
                yield Input((i, "distortion"), transform(distorted(image, i), sized))

    found: dict[tuple[int, str], np.ndarray] = {}
    batch = usual_batch(predict.devices)
    for out in predict_all(predict, inputs(), batch_size=batch):
        found[out.tag] = out.map.astype(np.float32)
    maps = [found[i, "plain"] for i in range(len(images))]
    scores: dict[str, list[float]] = {view: [] for view in views}
    for i, plain in enumerate(maps):
        valid = np.ones(plain.shape, bool) if mask is None else reduced(mask, plain.shape)
        for view in views:
            other = found[i, view]
            other = other[:, ::-1] if view == "flip" else other
            if other.shape != plain.shape:
                other = interpolation.resize(other, plain.shape, "bilinear-corners")
            scores[view].append(metrics.normalised_l1(other, plain, valid))
    return Measured(scores, maps)


def differences(a: Sequence[np.ndarray], b: Sequence[np.ndarray], mask=None) -> list[float]:
    """Returns the normalised difference of each two maps."""
    found = []
    for x, y in zip(a, b, strict=True):
        valid = np.ones(x.shape, bool) if mask is None else reduced(mask, x.shape)
        y = y if y.shape == x.shape else interpolation.resize(y, x.shape, "bilinear-corners")
        found.append(metrics.normalised_l1(y, x, valid))
    return found


def variety(maps: Sequence[np.ndarray]) -> float:
    """Returns the mean normalised difference of maps of different photos; 1 of a single photo."""
    if len(maps) < 2:
        return 1.0
    return float(np.mean(differences(maps, [*maps[1:], maps[0]])))


def baseline(networks: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the network of "before": the teacher, or the start; None where neither has depth."""
    for role in ("teacher", "start"):
        found = networks[role]
        if found and found["parts"] == "all":
            return found
    return None


def steps_of(run: str) -> list[int]:
    """Lists the steps of a run's checkpoints that are there."""
    folder = pathlib.Path(run, "checkpoints")
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def choose(
    plan: Plan,
    held_out: Sequence[str],
    networks: Mapping[str, Any],
    training: Sequence[Any],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Measures every checkpoint on held-out photos, and writes the chosen one to OUT/model.

    Args:
      held_out: sources.
      networks: "teacher" and "start", described.
      training: the command and what it was made from; scores of another one do not count.

    Returns:
      "steps" (rows of scores, step 0 the model before), "chosen", "photos" (keys, images, maps
      before and after), "warnings".
    """
    picked = sample(held_out)
    images = [image for _, image in picked]
    mask = formats.read_mask(plan.mask) if plan.mask else None
    file = pathlib.Path(plan.path("steps.json"))
    before = baseline(networks)
    made_from = [list(map(str, training)), before and [before["source"], before["state"]]]
    keys = [key for key, _ in picked]
    identity = [made_from, keys, plan.size, list(plan.evaluated)]
    stamps = {0: 0} | {step: stamp(plan, step) for step in steps_of(plan.path("run"))}
    rows = known_rows(file, identity, stamps)

    def keep() -> None:
        kept = {"of": identity, "stamps": {s: stamps[s] for s in rows}, "rows": rows}
        write(file, json.dumps(kept, indent=1))

    first = None if before is None else load(before["source"], dict(plan.load))
    start = None if first is None else measure(first, images, plan.size, mask=mask)
    if first is not None and start is not None and 0 not in rows:
        rows[0] = _row(start) | _errors(plan, first)
    del first
    for step in steps_of(plan.path("run")):
        if step in rows:
            continue
        bundle = load(plan.path("run", "checkpoints", str(step)), {})
        seen = measure(bundle, images, plan.size, mask=mask)
        rows[step] = _row(seen) | _errors(plan, bundle)
        if start is not None:
            rows[step]["change"] = float(np.mean(differences(start.maps, seen.maps, mask)))
        tell(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in rows[step].items()))
        keep()
    keep()
    chosen, warnings = chosen_step(rows)
    tell(f"chosen: step {chosen}")
    for line in warnings:
        tell(f"warning: {line}")
    model = write_model(plan, chosen)
    after = measure(load(model, {}), images, plan.size, views=())
    return {
        "steps": rows,
        "chosen": chosen,
        "warnings": warnings,
        "model": model,
        "keys": keys,
        "images": images,
        "before": None if start is None else start.maps,
        "after": after.maps,
        "mask": mask,
    }


def stamp(plan: Plan, step: int) -> int:
    """Returns when a checkpoint was finished, in ns: another one of that step has another time."""
    return os.stat(plan.path("run", "checkpoints", str(step))).st_mtime_ns


def known_rows(
    file: pathlib.Path, identity: Sequence[Any], stamps: Mapping[int, int]
) -> dict[int, dict[str, float]]:
    """Reads the scores of checkpoints that are still there; {} of another training, or damaged."""
    try:
        known = json_files.read(file)
        if known["of"] != list(identity):
            return {}
        old = {int(k): v for k, v in known["stamps"].items()}
        rows = {int(k): v for k, v in known["rows"].items()}
    except (OSError, ValueError, KeyError):
        return {}
    return {s: row for s, row in rows.items() if s in stamps and old.get(s) == stamps[s]}


def _row(seen: Measured) -> dict[str, float]:
    return {v: seen.mean(v) for v in VIEWS} | {"variety": variety(seen.maps)}


def relative(rows: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """Returns each step's mean difference, as a share of that of the first row, per view."""
    first = rows[min(rows)]
    return {
        step: float(np.mean([row[v] / max(first[v], 1e-9) for v in VIEWS]))
        for step, row in rows.items()
    }


def chosen_step(rows: Mapping[int, Mapping[str, float]]) -> tuple[int, list[str]]:
    """Chooses the trained step that agrees with itself best; also returns warnings."""
    curve = relative(rows)
    trained = [s for s in sorted(rows) if s > 0]
    least = VARIED * rows[min(rows)]["variety"]
    near = [s for s in trained if rows[s]["variety"] >= least]
    warnings = []
    if not near:
        warnings.append(
            "every checkpoint answers nearly one map for all photos: the training has collapsed, "
            "and its first checkpoint is taken. Look at the labels; train fewer steps, or with "
            "lower rates (--set optim.decoder_lr=1e-5), and another --out"
        )
    elif len(near) < len(trained):
        warnings.append(
            f"{len(trained) - len(near)} of {len(trained)} checkpoints answer nearly one map for "
            "all photos and are not chosen; train fewer steps, or with lower rates, and another "
            "--out"
        )
    chosen = min(near, key=lambda s: curve[s]) if near else trained[0]
    if 0 in rows and near and curve[chosen] >= 1:
        warnings.append(
            "no checkpoint agrees with itself better than the model before the training: there is "
            "no sign that the adaptation helped"
        )
    return chosen, warnings


def write_model(plan: Plan, step: int) -> str:
    """Writes the parameters of a step to OUT/model, with their licences; returns the folder."""
    folder = pathlib.Path(plan.path("model"))
    note = pathlib.Path(plan.path("model.json"))
    of = {"run": plan.path("run"), "step": step, "stamp": stamp(plan, step)}
    if folder.exists() and note.exists() and json_files.read(note) == of:
        return str(folder)
    params, meta = orbax_io.load_params(plan.path("run", "checkpoints", str(step)))
    new = folder.with_name("model.new")
    shutil.rmtree(new, ignore_errors=True)  # of a call that was killed
    orbax_io.save_params(str(new), params, {k: v for k, v in meta.items() if k != "step"})
    note.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    write(note, json.dumps(of))
    return str(folder)


def _errors(plan: Plan, bundle: ModelBundle) -> dict[str, float]:
    """Scores a model on the sets with labels, for comparison with the label-free measure."""
    from depth_anything_jax.evaluation.runner import loop, predictors

    found = {}
    for text in plan.evaluated:
        scores = loop.evaluate_candidate(
            predictors.of_bundle(bundle),
            registry.make(registry.parse(text)),
            protocol="golden",
            switches={"input_size": plan.size},
        )
        found[f"abs_rel {text}"] = float(np.mean(scores.of("abs_rel")))
    return found


def forgetting(
    plan: Plan,
    found: Mapping[str, Any],
    networks: Mapping[str, Any],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Compares the model before and after on clean images.

    Returns:
      "reference", "disagreement" of the two, where the reference has labels "error_before" and
      "error_after", and "warning". Empty where there is no model before.
    """
    before = baseline(networks)
    if before is None:
        return {}
    text = plan.reference or f"scenes:A?count={REFERENCES}&seed=7&size={min(plan.size, 252)}"
    source: Source = registry.make(registry.parse(text))
    at = np.unique(np.linspace(0, len(source) - 1, min(REFERENCES, len(source))).astype(int))
    records = [source[int(i)] for i in at]
    images = [r["image"] for r in records]
    old, new = (
        measure(load(path, options), images, plan.size, views=()).maps
        for path, options in ((before["source"], dict(plan.load)), (found["model"], {}))
    )
    told: dict[str, Any] = {
        "reference": text,
        "images": len(images),
        "disagreement": float(np.mean(differences(old, new))),
        "warning": "",
    }
    if all(kind_of(r) is not None for r in records):
        for name, maps in (("error_before", old), ("error_after", new)):
            errors = []
            for record, values in zip(records, maps, strict=True):
                truth = disparity_of(record)
                values = interpolation.resize(values, truth.shape, "bilinear-corners")
                errors.append(metrics.normalised_l1(values, truth, record["valid"]))
            told[name] = float(np.mean(errors))
        lost = told["error_after"] / told["error_before"] - 1
        told["lost"] = lost
    else:
        lost = told["disagreement"]
    if lost > FORGOTTEN:
        what = "its error on clean images grew" if "lost" in told else "it differs from before"
        told["warning"] = (
            f"{what} by {lost:.1%} (more than {FORGOTTEN:.0%}): fewer steps, lower rates (--set "
            "optim.encoder_lr=1e-6) or clean photos among the others keep more, with another --out"
        )
        tell(f"warning: {told['warning']}")
    return told
