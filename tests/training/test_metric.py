"""Metric heads in the trainer: the step on any devices, the program from its config, refusals."""

import os
import pathlib
import runpy
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import configs, evaluate, models, train
from depth_anything_jax.checkpoints import export, orbax_io, pretrained
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import config_checks, logger, optim
from depth_anything_jax.training.step import Networks, jit_train_step, make_train_step, new_state
from depth_anything_jax.utils import param_paths
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers.small_networks import Small

ROOT = pathlib.Path(__file__).parents[2]

SIZE = 28
DEVICES = jax.devices()
SMALL = {
    "input_size": SIZE,
    "batch_size": 2,
    "total_steps": 4,
    "init_from": "",
    "data.labelled": (f"scenes:A?count=6&size={SIZE}",),
    "optim.warmup": 2,
    "checkpoint.every": 2,
    "eval.every": 4,
    "eval.data": (f"scenes:C?count=2&size={SIZE}",),
    "log.every": 1,
    "log.images": 0,
    "log.tensorboard": False,
}


def config(variant="demo", **fields):
    c = runpy.run_path(str(configs.folder() / "metric.py"))["get_config"](variant)
    c.update_from_flattened_dict({**SMALL, **fields})
    return c


@pytest.fixture(scope="module", autouse=True)
def one_device_and_quick_compilation():
    """Bit-exactness is promised for one device; compiling well takes longer than these runs."""
    make = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sharding, "make_mesh", lambda *a, devices=None: make(*a, devices=devices or DEVICES[:1])
        )
        patch.setattr(jax, "local_devices", lambda: DEVICES[:1])  # the evaluator's
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


# The step


def batch(n=8, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, SIZE, SIZE)
    return {
        "labelled": {
            "image": rng.uniform(size=(*shape, 3)).astype(np.float32),
            "depth": (1 / rng.uniform(0.1, 1, shape) / rng.uniform(0.1, 2, (n, 1, 1))).astype(
                np.float32
            ),
            "valid": rng.uniform(size=shape) > rng.uniform(0, 0.9, (n, 1, 1)),
            "sky": np.zeros(shape, bool),
            "shift_known": np.ones(n, bool),
        }
    }


def run(c, mesh, steps=2):
    student = Small()  # the head's own output is models' business
    params = student.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    tx = optim.make(c.optim, params, c.total_steps)
    first = new_state(jax.tree.map(jnp.asarray, params), tx, ema=False)
    layout = sharding.tree_shardings(first, mesh)
    step = make_train_step(Networks(student), tx, c)
    step = jit_train_step(step, mesh, layout)
    now, history = jax.device_put(first, layout), []
    for i in range(steps):
        now, metrics = step(now, {}, sharding.put_batch(batch(seed=i), mesh))
        history.append({k: float(v) for k, v in metrics.items()})
    return now, history


@pytest.mark.parametrize("form", ["v2", "v1"])
def test_the_step_is_the_same_on_all_devices_and_in_microbatches(form):
    c = {"loss.silog": form}
    alone = run(config(batch_size=8, **c), sharding.make_mesh(devices=DEVICES[:1]))
    parts = run(config(batch_size=8, accumulation=4, **c), sharding.make_mesh(devices=DEVICES[:2]))
    assert alone[1][0]["loss/total"] > 0.1
    for one, other in zip(alone[1], parts[1], strict=True):
        assert one.keys() == other.keys()
        for name in one:  # float32 sums in another order
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name
    a, b = (param_paths.leaves_by_path(x[0].params) for x in (alone, parts))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=2e-5, err_msg=name)


def test_the_pooled_step_is_the_same_on_all_devices():
    c = config(batch_size=8, **{"loss.silog_pool": "batch"})
    alone, eight = (run(c, sharding.make_mesh(devices=DEVICES[:n]), 1)[1][0] for n in (1, 8))
    apart = run(config(batch_size=8), sharding.make_mesh(devices=DEVICES[:1]), 1)[1][0]
    assert alone["loss/total"] == pytest.approx(eight["loss/total"], rel=1e-5)  # order of sums
    assert abs(alone["loss/total"] - apart["loss/total"]) > 1e-3


# The program


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the shipped demo, shrunk and canonical."""
    folder = tmp_path_factory.mktemp("metric")
    train.train(canonical(), str(folder))
    return folder


def canonical(**fields):
    return config(**{"camera.focal": 20.0, "data.augment.rotate": 1.0, **fields})


def test_the_demo_learns_metres_and_says_so(finished):
    rows = logger.read_metrics(finished)
    losses = [r for r in rows if "loss/total" in r]
    assert [r["step"] for r in losses] == [1, 2, 3, 4]
    assert all(0 < r["labelled/pred_mean"] < 20 for r in losses)
    scores = [r for r in rows if "eval/scenes C/rmse" in r]
    assert [r["step"] for r in scores] == [4]
    assert scores[-1]["eval/scenes C/abs_rel"] > 0
    found = pretrained.load(str(finished))
    assert (found.head, found.max_depth, found.focal) == ("sigmoid", 20.0, 20.0)
    # The program's scores of the checkpoint are those that the run logged.
    sets = evaluate.open_sets([], [SMALL["eval.data"][0]])
    ((scored,), images), *_ = evaluate.evaluate(str(finished), sets)
    assert scored["protocol"] == f"zoe@2+input_size={SIZE}" and len(images) == 2
    ((other,), _), *_ = evaluate.evaluate(str(finished), sets, changed={"input_size": 42})
    assert other["protocol"] == "zoe@2+input_size=42"
    for name in ("abs_rel", "rmse"):  # bit for bit would ask for the same program
        assert scored[name] == pytest.approx(scores[-1][f"eval/scenes C/{name}"], rel=1e-5)


def test_what_is_scored_in_between_needs_cameras_before_the_first_step(tmp_path, on_relative):
    pairs = on_relative[0].data.labelled[0].replace("&fx=50", "")
    with pytest.raises(ValueError, match="eval.data: .*0.png has no camera"):
        train.train(canonical(**{"eval.data": (pairs,)}), str(tmp_path))


def test_labels_of_which_none_is_in_the_range_stop_the_run_at_its_first_step(tmp_path):
    c = config(**{"model.max_depth": 0.01, "batch_size": 8})
    with pytest.raises(FloatingPointError, match="no pixel of the first batch has a label between"):
        train.train(c, str(tmp_path))
    assert orbax_io.find(tmp_path) is None


@pytest.mark.nightly  # the mechanism is test_train's; here it meets a metric head
def test_it_goes_on_where_it_was_stopped_with_the_same_bits(finished, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Stop, "agreed", lambda self, step: step == 2)
        train.train(canonical(), str(tmp_path))
    assert orbax_io.find(tmp_path).name == "2"
    train.train(canonical(**{"log.images": 4}), str(tmp_path))
    assert (tmp_path / "strips" / "labelled_00000004.png").exists()
    ours, theirs = (
        param_paths.leaves_by_path(orbax_io.load_params(f)[0]) for f in (finished, tmp_path)
    )
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.nightly
def test_bins_start_from_a_whole_relative_network_and_learn_under_one_cycle(tmp_path):
    relative = runpy.run_path(str(configs.folder() / "teacher.py"))["get_config"]("demo")
    relative.update_from_flattened_dict({**SMALL, "total_steps": 2, "optim.warmup": 1})
    relative.eval.every = 0
    train.train(relative, str(tmp_path / "relative"))
    first, _ = orbax_io.load_params(tmp_path / "relative")
    c = config(
        "demo,head=bins",
        init_from=str(tmp_path / "relative"),
        **{"optim.warmup": 1, "input_size": (SIZE, SIZE)},
    )
    assert c.init_parts == "relative" and c.optim.schedule == "onecycle"
    train.train(c, str(tmp_path / "bins"))
    found = pretrained.load(str(tmp_path / "bins"))
    assert (found.head, found.max_depth, found.input.size) == ("bins", 20.0, (SIZE, SIZE))
    rows = [r for r in logger.read_metrics(tmp_path / "bins") if "loss/total" in r]
    assert all(np.isfinite(r["loss/total"]) and r["grad_norm/bins"] > 0 for r in rows)
    assert rows[0]["lr/bins"] == c.optim.bins_lr
    # It started from all of the relative network, whose steps since were small.
    near = [
        np.abs(found.params["decoder"][name]["kernel"] - first["decoder"][name]["kernel"]).max()
        for name in ("output_conv1", "output_conv2_2")
    ]
    assert 0 < max(near) < 4 * 2 * c.optim.decoder_lr  # Adam's step is its rate or less


@pytest.mark.nightly
def test_a_folder_of_pairs_becomes_a_checkpoint_by_the_documented_commands(tmp_path):
    """docs/metric.md from its first step to its last, with the demo's network on small scenes."""
    for kind in ("rgb", "depth"):
        (tmp_path / kind).mkdir()
    scenes = SceneSource("A", 10, size=56)
    for i in range(10):
        record = scenes[i]
        millimetres = 1000 * record["depth"]
        assert cv2.imwrite(str(tmp_path / f"rgb/{i}.png"), record["image"][..., ::-1])
        millimetres = np.minimum(millimetres, 65535).astype(np.uint16)
        assert cv2.imwrite(str(tmp_path / f"depth/{i}.png"), millimetres)
    source = f"pairs:{tmp_path}/rgb?depths={tmp_path}/depth&fmt=nyu&fx=50"

    def program(name, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"depth_anything_jax.{name}", *arguments],
            capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )  # fmt: skip

    fields = {
        "data.labelled": f"('{source}&slice=[0,8]',)",
        "eval.data": f"('{source}&slice=[8,10]',)",
        "model.max_depth": 10.0, "camera.focal": 60.0, "model.variant": "demo",
        "init_from": "demo-encoder", "init_parts": "encoder", "input_size": 56, "batch_size": 2,
        "total_steps": 4, "eval.every": 4, "checkpoint.every": 4, "log.tensorboard": False,
    }  # fmt: skip
    command = ["train", "--config=configs/metric.py:folder", f"--workdir={tmp_path}/run"]
    command += [f"--config.{k}={v}" for k, v in fields.items()]
    done = program(*command)
    assert done.returncode == 0, done.stderr
    assert "sigmoid up to 10 m at a focal length of 60 px" in done.stdout
    again = program(*command)
    assert again.returncode == 0 and "already holds all 4 steps" in again.stdout
    scored = program(
        "evaluate", "--checkpoint", f"{tmp_path}/run", "--data", f"{source}&slice=[8,10]",
        "--size", "56",
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert "| zoe@2+input_size=56 " in scored.stdout and "RMSE" in scored.stdout
    without = program(
        "evaluate", "--checkpoint", f"{tmp_path}/run", "--data", source.replace("&fx=50", "")
    )
    assert without.returncode == 1 and "0.png has no camera" in without.stderr
    assert "Traceback" not in without.stderr


# The bins head


TINY = models.Variant(16, 4, 1, 32, 8, (8, 8, 8, 8), (0, 1, 2, 3), grid=2)


def bins(**fields):
    fields = {"model.variant": "tiny", "input_size": (28, 42), "init_parts": "relative", **fields}
    c = runpy.run_path(str(configs.folder() / "metric.py"))["get_config"]("demo,head=bins")
    small = {k: v for k, v in SMALL.items() if k not in ("input_size", "optim.warmup")}
    c.update_from_flattened_dict({**small, **fields})
    return c


@pytest.fixture(scope="module")
def on_relative(tmp_path_factory):
    """(config, folder, what it began with) of a run of a bins head on a relative model."""
    tmp_path = tmp_path_factory.mktemp("bins")
    rng = np.random.default_rng(0)
    for kind in ("rgb", "depth"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        rgb, millimetres = rng.integers(0, 255, (40, 50, 3)), rng.integers(500, 9000, (40, 50))
        cv2.imwrite(str(tmp_path / f"rgb/{i}.png"), rgb.astype(np.uint8))
        cv2.imwrite(str(tmp_path / f"depth/{i}.png"), millimetres.astype(np.uint16))
    pairs = f"pairs:{tmp_path}/rgb?depths={tmp_path}/depth&fmt=nyu&fx=50"
    relative = models.build(TINY, version="v2")
    first = relative.init(jax.random.key(1), jnp.zeros((1, 28, 28, 3)))["params"]
    start = Weights(
        params=jax.tree.map(np.asarray, first), variant="tiny", version="v2", head="relative",
        max_depth=None, licence="MIT", source="start", parts="all", metadata={},
        input=transforms.OFFICIAL_INPUT, bin_centres=None,
    )  # fmt: skip
    file = str(export.export(start, str(tmp_path / "start.safetensors"), layout="official"))
    c = bins(init_from=file, **{"optim.encoder_lr": 0.0, "camera.focal": 20.0})
    c.data.labelled = c.eval.data = (pairs,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.VARIANTS, "tiny", TINY)
        train.train(c, str(tmp_path / "whole"))
        yield c, tmp_path / "whole", start


def test_a_bins_head_learns_on_a_relative_model(on_relative):
    c, folder, start = on_relative
    rows = logger.read_metrics(folder)
    steps = [r for r in rows if "loss/total" in r]
    assert steps[-1]["lr/bins"] > 0 and steps[-1]["grad_norm/bins"] > 0
    assert steps[-1]["lr/encoder"] == 0 == steps[-1]["update_norm/encoder"]
    found = pretrained.load(str(folder))
    assert (found.head, found.max_depth, found.focal) == ("bins", 20.0, 20.0)
    assert found.input == transforms.InputTransform((28, 42), False, "bilinear-corners", DINOV2)
    assert set(found.params) == {"encoder", "decoder", "bins"}
    ours, theirs = (param_paths.leaves_by_path(p) for p in (found.params, start.params))
    for name in theirs:  # the relative model came along, and its decoder learns with the head
        assert np.array_equal(ours[name], theirs[name]) == (
            name.startswith("encoder/") or "refinenet4/resConfUnit1" in name
        ), name
    # What the run logged is what the program says of its checkpoint.
    logged = {k.rpartition("/")[2]: v for r in rows for k, v in r.items() if k.startswith("eval/")}
    sets = evaluate.open_sets([], list(c.eval.data))
    ((scored,), _), *_ = evaluate.evaluate(str(folder), sets)
    for name in ("abs_rel", "rmse"):  # bit for bit would ask for the same program
        assert scored[name] == pytest.approx(logged[name], rel=1e-5)


@pytest.mark.nightly  # its optimiser has a third group and moves b1: all of it must be saved
def test_a_bins_head_goes_on_where_it_was_stopped_with_the_same_bits(on_relative, tmp_path):
    c, folder, _ = on_relative
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Stop, "agreed", lambda self, step: step == 2)
        train.train(c, str(tmp_path))
    assert orbax_io.find(tmp_path).name == "2"
    train.train(c, str(tmp_path))
    ours, theirs = (
        param_paths.leaves_by_path(orbax_io.load_params(f)[0]) for f in (folder, tmp_path)
    )
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 6, "unlabelled_ratio": 2, "loss.weights": (0.5, 0.5, 0)},
         "4 unlabelled images a batch: metres come from labels alone; set unlabelled_ratio=0"),
        ({"loss.silog_pool": "batch", "accumulation": 2}, "no sum over microbatches; use accum"),
        ({"loss.silog": "v3"}, "loss.silog='v3' is unknown; choose one of v2, v1"),
        ({"data.labelled": ()}, "data.labelled is empty: .*pairs:mine/rgb"),
        ({"loss.gradient_weight": 2.0}, "SiLog has no gradient term"),
        ({"model.max_depth": 0.0}, "needs a range in metres: .*model.max_depth=0.0; 0.001 and 20"),
        ({"loss.min_depth": 30.0}, "loss.min_depth=30.0 and model.max_depth=20"),
        ({"camera.focal": -1.0}, "camera.focal=-1.0: pixels, or 0"),
        ({"init_parts": "relative"}, "use 'decoder' .all but the last layer. or 'encoder'"),
        ({"model.head": "relative", "camera.focal": 9.0}, "camera.focal=9.0 with model.head='rel"),
        ({"model.head": "relative", "init_parts": "decoder"}, "is for a metric head on relative"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_named(fields, message, tmp_path):
    c = config(**fields)
    with pytest.raises(ValueError, match=message):
        config_checks.check(c, config_checks.batch_sizes(c), str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": (28, 40)}, r"input_size=.28, 40. is no multiple of 14; use .28, 42."),
        ({"input_size": (28,)}, "a bins head sees whole images, of one height and width"),
        ({"model.head": "sigmoid"}, "all others learn from square crops of one side"),
        ({"init_parts": "decoder"}, "whose last layer would stay random; use 'relative'"),
    ],
)
def test_fields_that_do_not_fit_a_bins_head_are_named(fields, message, tmp_path, monkeypatch):
    monkeypatch.setitem(models.VARIANTS, "tiny", TINY)
    c = bins(**fields)
    with pytest.raises(ValueError, match=message):
        config_checks.check(c, config_checks.batch_sizes(c), str(tmp_path))


def test_an_audit_knows_relative_losses_only(tmp_path):
    with pytest.raises(ValueError, match="--audit=1 with model.head='sigmoid'"):
        train.train(config(), str(tmp_path), audit_steps=1)
