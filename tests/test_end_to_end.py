"""Teacher -> pseudo labels -> student, from the shipped configs, on a handful of small scenes."""

import runpy

import cv2
import jax
import numpy as np
import pytest

from depth_anything_jax import configs, pseudo_label, train
from depth_anything_jax.checkpoints import export, orbax_io, pretrained
from depth_anything_jax.data import registry
from depth_anything_jax.losses import relative
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import logger
from depth_anything_jax.utils import param_paths
from tests.helpers.prepare_data import prepare

SIZE = 28
SMALL = {
    "input_size": SIZE,
    "total_steps": 3,
    "optim.warmup": 1,
    "data.labelled": (f"scenes:A?count=6&size={SIZE}",),
    "checkpoint.every": 3,
    "log.every": 1,
    "log.images": 3,
    "log.tensorboard": False,
    "mesh.data": -1,
}


def shipped(name, variant="demo", **fields):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    c.update_from_flattened_dict({**SMALL, **fields})
    return c


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The three stages on eight devices; the student in four microbatches would not fit: two."""
    folder = tmp_path_factory.mktemp("method")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        train.train(
            shipped("teacher", batch_size=8, init_from="demo-encoder"), str(folder / "teacher")
        )
        # Packed images, whose stored names are not their keys in the data set.
        done = prepare(
            "--source", f"scenes:B?count=6&size={SIZE}&labelled=False", "--out", folder,
            "--name", "few", "--workers", 1,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        unlabelled = f"tfds:{folder / 'few'}"
        source = registry.make(registry.parse(unlabelled))
        pseudo_label.label(
            str(folder / "teacher"), source, folder / "labels", size=SIZE, batch_size=8
        )
        c = shipped("student", batch_size=24, **{
            "data.unlabelled": (unlabelled,), "data.labels": (str(folder / "labels"),),
            "eval.every": 3, "eval.data": (f"scenes:C?count=2&size={SIZE}",),
        })  # fmt: skip
        train.train(c, str(folder / "student"))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    return folder


def test_student_learns_from_both_and_says_so(runs):
    rows = logger.read_metrics(runs / "student")
    losses = [r for r in rows if "loss/total" in r]
    assert [r["step"] for r in losses] == [1, 2, 3]
    for name in ("labelled", "unlabelled", "features"):
        assert all(np.isfinite(r[f"loss/{name}"]) for r in losses)
    # The student starts as the frozen encoder: L_feat has nothing to pull at yet.
    assert losses[0]["features/active_fraction"] == 0
    assert losses[0]["loss/features"] == 0
    assert losses[-1]["unlabelled/pred_zero_share"] < 0.5
    scored = [r for r in rows if "eval/scenes C/norm_l1" in r]
    assert [r["step"] for r in scored] == [3] and scored[0]["eval/scenes C/norm_l1"] > 0
    strips = sorted(p.name for p in (runs / "student" / "strips").iterdir())
    assert strips == [
        f"{part}_{step:08d}.png" for part in ("labelled", "unlabelled") for step in (1, 3)
    ]


def test_licences_travel_from_teacher_and_labels_to_the_student(runs):
    _, meta = orbax_io.load_params(runs / "student")
    roles = [link["role"] for link in meta["licence_chain"]]
    assert {"initial weights", "frozen encoder", "teacher"} <= set(roles)


def test_trained_student_goes_to_torch_layout_and_back(runs, tmp_path):
    found = pretrained.load(str(runs / "student"))
    export.export(found, str(tmp_path / "student.safetensors"), layout="official")
    again = pretrained.load(str(tmp_path / "student.safetensors"))
    ours, theirs = (param_paths.leaves_by_path(w.params) for w in (found, again))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert (again.variant, again.version) == ("demo", "v2")


def test_v2_learns_from_the_labels_of_another_tool_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(4):
        image = cv2.resize(rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8), (40, 32))
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        np.save(tmp_path / f"{i}_depth.npy", image.mean(-1))
    c = shipped("student", "v2", batch_size=4, teacher="files", init_from="demo-encoder", **{
        "model.variant": "demo", "frozen_encoder": "demo-encoder", "data.labelled": (),
        "data.unlabelled": (f"folder:{tmp_path}",), "data.workers": 0,
        "data.labels": (f"{tmp_path}?suffix=_depth",), "log.images": 0, "total_steps": 2,
    })  # fmt: skip
    weights_of_the_gradient = []
    by_region = relative.affine_invariant_by_region

    def watched(*args, **options):
        weights_of_the_gradient.append(options["gradient_weight"])
        return by_region(*args, **options)

    monkeypatch.setattr(relative, "affine_invariant_by_region", watched)
    make = sharding.make_mesh  # one device: quicker to compile for
    monkeypatch.setattr(sharding, "make_mesh", lambda *a: make(*a, devices=jax.devices()[:1]))
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        numbers = train.train(c, str(tmp_path / "run"))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert set(weights_of_the_gradient) == {2.0}
    assert numbers["loss/unlabelled"] > 0 and "loss/labelled" not in numbers
    mean = (numbers["loss/unlabelled"] + numbers["loss/features"]) / 2  # float32
    assert numbers["loss/total"] == pytest.approx(mean, rel=1e-6)
    _, meta = orbax_io.load_params(tmp_path / "run")
    assert (meta["version"], meta["step"]) == ("v2", 2)
