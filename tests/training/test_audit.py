"""The audit: tools/audit.py confirms what a run writes down, and finds tampering by name."""

import ast
import dataclasses
import functools
import pathlib
import runpy
import sys
import types

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest

from depth_anything_jax import configs, models, train
from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.data import registry
from depth_anything_jax.data.sources.base import disparity_of
from depth_anything_jax.losses import relative
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import audit, audit_sheets
from depth_anything_jax.training.step import Networks
from depth_anything_jax.utils import param_paths
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers import hostile

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "audit.py"
SIZE = 42


def student(**fields):
    c = runpy.run_path(str(configs.folder() / "student.py"))["get_config"]("demo")
    c.update_from_flattened_dict(fields)
    return c


@pytest.fixture(scope="module", autouse=True)
def one_device_and_quick_compilation():
    """These programs run once or twice: compiling them well takes longer than running them."""
    patch = pytest.MonkeyPatch()
    make = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda *a: make(*a, devices=jax.devices()[:1]))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of six scenes, and labels of another tool with a hole in each."""
    folder = tmp_path_factory.mktemp("audited")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    scenes = registry.make(registry.parse(f"scenes:B?count=6&size={SIZE}"))
    for i in range(6):
        scene = scenes[i]
        label = disparity_of(scene)
        label[i : i + 8, 3:12] = np.nan
        np.save(folder / "labels" / f"{i}.npy", label)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), scene["image"][..., ::-1])
    return folder


def small(folder):
    """The demo's student in two microbatches, two steps."""
    return student(**{
        "input_size": SIZE, "total_steps": 2, "accumulation": 2, "optim.warmup": 1,
        # a random encoder, and a margin amid its cosines: half of the tokens are kept
        "init_from": "", "loss.feat_margin": 0.0, "perturb.cutmix.p": 0.8,
        "teacher": "files", "data.labelled": (f"scenes:A?count=6&size={SIZE}",),
        "data.unlabelled": (f"folder:{folder}/images",), "data.labels": (f"{folder}/labels",),
        "log.images": 0, "log.tensorboard": False, "checkpoint.every": 2,
    })  # fmt: skip


@pytest.fixture(scope="module")
def run(folder):
    """An audited run."""
    train.train(small(folder), str(folder / "run"), audit_steps=2)
    return folder / "run" / "audit"


def check(folder, capsys, monkeypatch):
    """tools/audit.py on a folder: its exit code and what it prints."""
    monkeypatch.setattr(sys, "argv", ["audit.py", str(folder)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOL), run_name="__main__")
    printed = capsys.readouterr()
    code = left.value.code
    if isinstance(code, str):  # as the interpreter does
        return 1, printed.out + code
    return code, printed.out + printed.err


def test_a_run_is_confirmed_and_drawn(run, capsys, monkeypatch):
    code, printed = check(run, capsys, monkeypatch)
    assert code == 0, printed
    assert printed.count("agrees") == 2
    assert sorted(p.name for p in run.glob("*.png")) == [
        f"step_{step:06d}_{part}_000.png" for step in (1, 2) for part in ("labelled", "unlabelled")
    ]
    x = np.load(run / "step_000002.npz")
    assert x["unlabelled/image"].shape == (8, SIZE, SIZE, 3)  # of both microbatches
    assert x["labelled/prediction"].shape == (4, SIZE, SIZE)
    # or the confirmation would say little
    assert not x["unlabelled/valid"].all() and not x["unlabelled/kept"].all()
    assert 3 <= x["unlabelled/mask"].any((1, 2)).sum() <= 8
    assert 0.1 < x["unlabelled/token_kept"].mean() < 0.9
    assert all(x[f"loss/{name}/sum"] > 0 for name in ("labelled", "unlabelled", "features"))


@pytest.mark.nightly
def test_an_audit_changes_nothing_in_the_run(run, folder, tmp_path):
    train.train(small(folder), str(tmp_path))
    ours, theirs = (
        param_paths.leaves_by_path(orbax_io.load_params(x)[0]) for x in (run.parent, tmp_path)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_the_tool_is_on_its_own():
    imported = set()
    for node in ast.walk(ast.parse(TOOL.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def invert_masks(x):
    x["unlabelled/mask"] = ~x["unlabelled/mask"]


def keep_own_labels(x):
    x["unlabelled/label"] = x["unlabelled/own_label"]


def keep_own_pixels(x):
    x["unlabelled/image"] = x["unlabelled/own_image"]


def reverse_the_margin(x):
    kept = x["unlabelled/token_kept"] = ~x["unlabelled/token_kept"]
    distance = np.where(kept, 1 - x["unlabelled/cosine"], 0).sum(1)
    x["unlabelled/features_sum"] = distance / np.maximum(kept.sum(1), 1)
    x["loss/features/sum"] = x["unlabelled/features_sum"].sum()


def raise_one_loss(x):
    x["loss/unlabelled/sum"] = x["loss/unlabelled/sum"] * 1.001


def report_another_loss(x):
    x["reported/loss/labelled"] = x["reported/loss/labelled"] + 1e-3


def shift_a_label(x):
    x["labelled/label"][2] = np.roll(x["labelled/label"][2], 1, axis=1)


def take_holes_for_values(x):
    x["unlabelled/valid"][:] = True


def keep_the_largest(x):
    x["unlabelled/kept"] = x["unlabelled/used"]


def roll_tokens(x):
    x["unlabelled/frozen_tokens"][5] = np.roll(x["unlabelled/frozen_tokens"][5], 1, axis=0)


def miscount(x):
    x["loss/labelled/count"] = x["loss/labelled/count"] - 1


def not_a_number(x):
    x["unlabelled/prediction"][4, 20, 20] = np.nan


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (invert_masks, "unlabelled example BOXED: mask and its box"),
        (keep_own_labels, "unlabelled example BOXED: label as fed, inside the box, at ("),
        (keep_own_pixels, "unlabelled example BOXED: image as fed, inside the box, at ("),
        (reverse_the_margin, "features example 0: token kept by the margin 0.0, at ("),
        (raise_one_loss, "  unlabelled: sum over the batch: "),
        (report_another_loss, "  labelled: by the step and dumped: "),
        (shift_a_label, "labelled example 2: label as fed, at ("),
        (take_holes_for_values, "unlabelled example 0: valid as fed, outside the box, at ("),
        (keep_the_largest, "unlabelled example 0: pixels kept by the trimming, "),
        (roll_tokens, "features example 5: cosine of token, at ("),
        (miscount, "  labelled: count: 3 dumped, 4 recomputed"),
        (not_a_number, "unlabelled example 4: loss: "),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_tampered_dump_is_found_by_name(run, tmp_path, tamper, named, capsys, monkeypatch):
    x = dict(np.load(run / "step_000001.npz"))
    boxed = int(np.argmax(x["unlabelled/mask"].any((1, 2))))
    tamper(x)
    np.savez(tmp_path / "step_000001.npz", **x)
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 1
    assert named.replace("BOXED", str(boxed)) in printed


def test_bad_input_is_named(run, tmp_path, capsys, monkeypatch):
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 2 and "holds no step_*.npz; train --audit=N writes them" in printed
    file = tmp_path / "step_000001.npz"
    file.write_bytes((run / "step_000001.npz").read_bytes()[:-2000])
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 2 and f"{file} is not a complete dump (BadZipFile" in printed
    x = dict(np.load(run / "step_000001.npz"))
    del x["unlabelled/partner"]
    np.savez(file, **x)
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 2 and "is not a complete dump (KeyError: 'partner')" in printed


# Settings and maps that a short run does not meet


class Answers(nn.Module):
    """In the place of a network: its "parameters" are what it answers, whatever it is asked."""

    head = "relative"
    spec = DINOV2

    def __call__(self, images, return_features=False):
        given = self.variables["params"]
        features = types.SimpleNamespace(tokens=given.get("tokens"))
        if "depth" not in given:
            return features
        return (given["depth"], features) if return_features else given["depth"]


def hostile_step(c, seed=0):
    """Evidence of a step whose labels and predictions are those of tests/helpers/hostile.py."""
    rng = np.random.default_rng(seed)
    cases = list(hostile.cases().values())
    pred, disparity, valid = (np.stack([case[i] for case in cases]) for i in range(3))
    n, h, w = pred.shape

    def part():
        return {
            "image": rng.uniform(size=(n, h, w, 3)).astype(np.float32),
            "disparity": np.where(np.isfinite(disparity), disparity, 0).astype(np.float32),
            "valid": valid,
            # a sky pixel counts, so the prediction must be a number there
            "sky": (rng.uniform(size=(n, h, w)) > 0.9) & np.isfinite(pred),
            "shift_known": rng.uniform(size=n) > 0.5,
        }

    def tokens(*shape):
        return rng.normal(size=(*shape, 9, 4)).astype(np.float32)

    # CutMix brings valid pixels to where these predictions are not finite
    finite = np.where(np.isfinite(pred), pred, 1.0)
    depth = np.stack([pred, finite], axis=1).reshape(-1, h, w).astype(np.float32)
    params, frozen = {"depth": depth, "tokens": tokens(2 * n)}, {"encoder": {"tokens": tokens(n)}}
    batch = {"labelled": part(), "unlabelled": part()}
    networks = Networks(Answers(), Answers())
    if c.teacher == "online":  # a teacher gives the labels, valid everywhere
        networks = dataclasses.replace(networks, teacher=Answers())
        frozen["teacher"] = {"depth": batch["unlabelled"]["disparity"]}
        batch["unlabelled"] = {"image": batch["unlabelled"]["image"]}
    observe = functools.partial(audit.evidence, networks, c)
    found = jax.jit(observe)(params, 7, frozen, batch)
    found = jax.device_get(found)
    weights = dict(zip(("labelled", "unlabelled", "features"), c.loss.weights, strict=True))
    means = {k: float(x["sum"] / max(x["count"], 1)) for k, x in found["loss"].items()}
    reported = {f"loss/{k}": v for k, v in means.items()}
    reported["loss/total"] = sum(weights[k] * v for k, v in means.items())
    return audit.dump(found, reported, c, 8, exact=True)


SETTINGS = {
    "V1": {"loss.feat_margin": 0.2},
    "V2's gradient term": {"loss.gradient_weight": 2.0, "loss.feat_margin": 0.2},
    "per region": {"loss.trim_per": "region", "loss.feat_denominator": "global", "loss.sky": False},
    "guards": {"loss.min_region_scale": 0.5, "loss.min_valid": 30, "loss.feat_input": "clean",
               "loss.trim": 0.25, "perturb.cutmix.p": 1.0, "teacher": "online"},
}  # fmt: skip


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_hostile_maps_are_confirmed_under_every_setting(fields, tmp_path, capsys, monkeypatch):
    x = hostile_step(student(**fields))
    np.savez(tmp_path / "step_000008.npz", **x)
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 0, printed
    counted = x["unlabelled/unlabelled_count"]
    assert 0 < counted.sum() < len(counted)
    del x["unlabelled/token_kept"]  # tokens that are no grid of these maps
    assert audit_sheets.sheets(x, DINOV2).keys() >= {"unlabelled_000", "labelled_008"}  # of any map


def reversed_margin(monkeypatch):
    monkeypatch.setattr(relative, "cosines", lambda a, b, margin, f=relative.cosines: (
        f(a, b, margin=margin)[0], ~f(a, b, margin=margin)[1]))  # fmt: skip


def whole_image_normalisation(monkeypatch):
    def regions(valid, mask, f=relative._regions):
        return f(valid, None if mask is None else mask & False)

    monkeypatch.setattr(relative, "_regions", regions)
    spread = relative._spread
    monkeypatch.setattr(
        relative, "_spread", lambda v, m: spread(v, None if m is None else m & False)
    )


@pytest.mark.parametrize(
    ("mutate", "named"),
    [
        (reversed_margin, "features example 0: token kept by the margin 0.2, at ("),
        (whole_image_normalisation, ": residual, inside the box, at ("),
    ],
)
def test_a_mutated_package_is_found_by_name(mutate, named, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        mutate(patch)
        x = hostile_step(student(**SETTINGS["V1"]))
    np.savez(tmp_path / "step_000008.npz", **x)
    code, printed = check(tmp_path, capsys, monkeypatch)
    assert code == 1 and named in printed


# What the audit itself refuses


def test_losses_that_the_step_did_not_report_are_refused():
    c = student()
    found = {"labelled": {"sum": 2.0, "count": 4.0}, "unlabelled": {"sum": 0.0, "count": 0.0}}
    reported = {"loss/labelled": 0.5, "loss/unlabelled": 0.0, "loss/total": 0.5 / 3}
    audit.check_reported(found, reported, c, 1, audit.EXACT_ROUNDING)
    found["labelled"]["sum"] = 2.001
    with pytest.raises(ValueError, match=r"step 1: .*loss/labelled = 0.5, .* gave 0.50025"):
        audit.check_reported(found, reported, c, 1, audit.EXACT_ROUNDING)
    found["labelled"]["sum"] = float("nan")
    with pytest.raises(ValueError, match="gave nan"):
        audit.check_reported(found, reported, c, 1, audit.EXACT_ROUNDING)


def test_a_negative_number_of_steps_is_refused(tmp_path):
    networks = Networks(models.build("demo"))
    with pytest.raises(ValueError, match="--audit=-1"):
        audit.Auditor(networks, student(), sharding.make_mesh(), str(tmp_path), -1)
