"""The step: the same numbers however the batch lies on devices and in microbatches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import models
from depth_anything_jax.losses import relative
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import optim, perturb
from depth_anything_jax.training.init import compile_without_optimising
from depth_anything_jax.training.step import (
    Networks,
    jit_train_step,
    loss_parts,
    make_train_step,
    new_state,
    unlabelled_inputs,
)
from depth_anything_jax.utils import param_paths
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers.demo_configs import careful_student
from tests.helpers.run_comparison import SHIFT
from tests.helpers.small_networks import Patches, Small

SIZE = 28
TINY = models.Variant(32, 4, 2, 64, 8, (8, 8, 16, 16), (0, 1, 2, 3), grid=2)


def batch(labelled=8, unlabelled=16, seed=0):
    rng = np.random.default_rng(seed)

    def part(n):
        return {
            "image": rng.uniform(size=(n, SIZE, SIZE, 3)).astype(np.float32),
            "disparity": rng.uniform(size=(n, SIZE, SIZE)).astype(np.float32),
            "valid": rng.uniform(size=(n, SIZE, SIZE)) > 0.1,
            "sky": rng.uniform(size=(n, SIZE, SIZE)) > 0.8,
            "shift_known": rng.uniform(size=n) > 0.5,
        }

    return {k: part(n) for k, n in (("labelled", labelled), ("unlabelled", unlabelled)) if n}


def setup(c, mesh, teacher=False):
    student = models.build(TINY)
    encoder = models.build_encoder(TINY)
    tx_shapes = jax.eval_shape(init(student), jax.random.key(0))
    tx = optim.make(c.optim, tx_shapes, c.total_steps)
    abstract = jax.eval_shape(
        lambda k: new_state(init(student)(k), tx, ema=c.ema_decay > 0), jax.random.key(0)
    )
    layout = sharding.tree_shardings(abstract, mesh)
    params = first_params()
    first = jax.device_put(new_state(params, tx, ema=c.ema_decay > 0), layout)
    frozen = {"encoder": other(params, 1)["encoder"]}
    networks = Networks(student, encoder, student if teacher else None)
    if teacher:
        frozen["teacher"] = other(params, 2)
    step = jit_train_step(make_train_step(networks, tx, c), mesh, layout)
    frozen = jax.device_put(frozen, sharding.tree_shardings(frozen, mesh))
    return first, frozen, step


@functools.cache
def first_params():
    """One random start for all tests (numpy): compiling it takes longer than a step."""
    program = compile_without_optimising(init(models.build(TINY)), one_device(), None)
    return jax.tree.map(np.asarray, program(jax.random.key(0)))


def other(params, seed):
    """Another network's parameters: these, disturbed."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32), params
    )


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def init(student):
    return lambda key: student.init(key, jnp.zeros((1, SIZE, SIZE, 3)))["params"]


def run(c, mesh, steps=2, teacher=False):
    train_state, frozen, step = setup(c, mesh, teacher)
    history = []
    for i in range(steps):
        train_state, metrics = step(train_state, frozen, sharding.put_batch(batch(seed=i), mesh))
        history.append({k: float(v) for k, v in metrics.items()})
    return train_state, history


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These programs run once or twice: compiling them well takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def alone():
    return run(careful_student(), one_device())


def check_same(one, other, rtol):
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            # The gradient of |r| jumps where rounding turns the sign of a residual near 0, and
            # where it moves one across the trimming threshold; the losses do not.
            bound = rtol * (100 if "norm" in name else 1)
            assert a[name] == pytest.approx(b[name], rel=bound, abs=bound), name
    a, b = (param_paths.leaves_by_path(x[0].params) for x in (one, other))
    for name in a:
        # A shift of the prediction changes no loss: the true gradient of this bias is 0, and Adam
        # steps a whole rate either way on rounding noise, 5e-6 and then 1e-5.
        atol = 2 * (5e-6 + 1e-5) + 1e-6 if name == SHIFT else 2e-5
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2)])
def test_eight_devices_give_the_numbers_of_one(alone, data, fsdp):
    sharded = run(careful_student(), sharding.make_mesh(data, fsdp))
    check_same(alone, sharded, 1e-5)  # float32 sums in another order
    if fsdp == 2:
        kernel = sharded[0].params["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert kernel.sharding.spec == jax.P(None, None, "fsdp")


def test_accumulation_gives_the_gradient_of_the_whole_batch(alone):
    c = careful_student(accumulation=4)
    check_same(alone, run(c, sharding.make_mesh(devices=jax.devices()[:2])), 1e-5)


def test_every_part_of_the_method_is_in_the_metrics(alone):
    first, second = alone[1]
    assert {"loss/total", "loss/labelled", "loss/unlabelled", "loss/features"} <= first.keys()
    expected = """features/active_fraction labelled/pred_median unlabelled/pred_median
        labelled/pred_zero_share unlabelled/trimmed_share unlabelled/dropped_regions
        grad_norm/encoder grad_norm/decoder update_norm/encoder update_norm/decoder"""
    assert set(expected.split()) <= first.keys()
    mean = (first["loss/labelled"] + first["loss/unlabelled"] + first["loss/features"]) / 3
    assert first["loss/total"] == pytest.approx(mean, rel=1e-6)
    assert 0 < first["unlabelled/trimmed_share"] < 0.12
    assert second["loss/total"] != first["loss/total"]


def test_online_teacher_never_moves_and_the_average_follows_with_its_decay():
    c = careful_student(teacher="online", accumulation=2, ema_decay=0.75)
    mesh = one_device()
    train_state, frozen, step = setup(c, mesh, teacher=True)
    before = jax.tree.map(np.asarray, (frozen, train_state.params))
    data = batch()
    for name in ("disparity", "valid", "sky", "shift_known"):
        del data["unlabelled"][name]
    after, metrics = step(train_state, frozen, sharding.put_batch(data, mesh))
    assert float(metrics["loss/unlabelled"]) > 0
    jax.tree.map(np.testing.assert_array_equal, before[0], jax.tree.map(np.asarray, frozen))
    start, moved, averaged = (
        np.asarray(x["decoder"]["output_conv1"]["kernel"])
        for x in (before[1], after.params, after.ema)
    )
    assert np.abs(moved - start).max() > 0
    np.testing.assert_allclose(averaged, 0.75 * start + 0.25 * moved, atol=1e-7)


def test_frozen_parameters_get_no_gradient_and_stay():
    c = careful_student(**{"optim.freeze": (r"(?!decoder/resize_layers_3/kernel).*",)})
    mesh = one_device()
    first, frozen, step = setup(c, mesh)
    before = param_paths.leaves_by_path(jax.tree.map(np.asarray, first.params))
    after, metrics = step(first, frozen, sharding.put_batch(batch(), mesh))
    changed = [
        p
        for p, x in param_paths.leaves_by_path(after.params).items()
        if (np.asarray(x) != before[p]).any()
    ]
    assert changed == ["decoder/resize_layers_3/kernel"]
    assert float(metrics["grad_norm/encoder"]) == 0


# Features, with networks that compile in no time


def small_networks():
    networks = Networks(Small(), Patches())
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params = networks.student.init(jax.random.key(0), images)["params"]
    # Cosines of about (1 + 0.6 ** 2) ** -0.5 = 0.86: tokens on both sides of the margin.
    noise = 0.6 * np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    return networks, params, {"encoder": {"kernel": params["encoder"]["kernel"] + noise}}


def features_of(c, networks, params, frozen, data, keys):
    """What the step makes of unlabelled images, and L_feat of them in one piece."""

    @jax.jit  # one program, where separate operations would each be compiled
    def compute(data, keys):
        inputs = unlabelled_inputs(data, keys, c, DINOV2)
        return inputs, loss_parts(networks, params, frozen, {"unlabelled": inputs}, c.loss)

    inputs, parts = compute(data, keys)
    return inputs, parts["features"]


def coloured(n=16):
    """Unlabelled images of one colour each, so that tokens lie in all directions."""
    data = batch(0, n)["unlabelled"]
    colours = np.random.default_rng(1).uniform(size=(n, 1, 1, 3))
    return {**data, "image": (0.9 * colours + 0.1 * data["image"]).astype(np.float32)}


def test_features_of_microbatches_add_up_where_tokens_are_the_denominator():
    found, data = {}, jax.tree.map(jnp.asarray, coloured())
    for accumulation in (1, 4):
        c = careful_student(
            accumulation=accumulation,
            batch_size=16,
            labelled_ratio=0,
            **{
                "loss.weights": (0.0, 0.5, 0.5),
                "loss.feat_denominator": "global",
                "loss.feat_margin": 0.85,  # what `small_networks` is made for
                "perturb.distort": False,
            },
        )
        networks, params, frozen = small_networks()
        tx = optim.make(c.optim, params, c.total_steps)
        step = jax.jit(make_train_step(networks, tx, c))
        new, metrics = step(new_state(params, tx, ema=False), frozen, {"unlabelled": data})
        found[accumulation] = {k: float(v) for k, v in metrics.items()}
        moved = np.asarray(new.params["encoder"]["kernel"] - params["encoder"]["kernel"])
        assert np.abs(moved).max() > 0
    one, four = found[1], found[4]
    assert 0.1 < one["features/active_fraction"] < 0.9  # microbatches have counts of their own
    _, features = features_of(
        c, networks, params, frozen, data, perturb.example_keys(c.seed, 0, 16)
    )
    assert one["loss/features"] == pytest.approx(float(features.sum / features.count), rel=1e-5)
    for name in one:  # float32 sums in another order
        assert four[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("feat_input", ["student", "clean", "shuffled"])
@pytest.mark.parametrize("distort", [True, False])
def test_the_frozen_encoder_sees_what_the_config_says(feat_input, distort, monkeypatch):
    monkeypatch.setattr(perturb, "colour", lambda keys, images, **factors: 1 - images)
    c = careful_student(**{"loss.feat_input": feat_input, "perturb.distort": distort})
    data = jax.tree.map(jnp.asarray, coloured(4))
    networks, params, frozen = small_networks()
    keys = perturb.example_keys(0, 0, 4)
    inputs, features = features_of(c, networks, params, frozen, data, keys)
    mask = np.asarray(inputs["mask"])
    assert 0 < mask.mean() < 1
    mixed = np.where(mask[..., None], np.roll(data["image"], 1, axis=0), data["image"])
    clean = perturb.normalise(jnp.asarray(mixed), DINOV2)
    assert np.allclose(inputs["image"], clean, atol=1e-6) is not distort  # float32
    other = np.roll(inputs["image"], 2, axis=0)  # neither the image nor its partner
    seen = {"student": inputs["image"], "clean": clean, "shuffled": other}[feat_input]

    def tokens(kernel, images):
        return Patches().apply({"params": kernel}, images).tokens

    expected = relative.feature_alignment(
        tokens(params["encoder"], inputs["image"]), tokens(frozen["encoder"], seen),
        margin=c.loss.feat_margin, denominator="image",
    )  # fmt: skip
    assert float(expected.sum) > 0
    np.testing.assert_allclose(features.sum, expected.sum, rtol=1e-6)  # float32
