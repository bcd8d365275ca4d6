"""The step: the same numbers however the batch lies on devices and in microbatches."""

import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import initial, models, optim, paths, sharding, state

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SIZE = 28
TINY = models.Variant(32, 4, 2, 64, 8, (8, 8, 16, 16), (0, 1, 2, 3), grid=2)


def config(**fields):
    c = runpy.run_path(str(CONFIGS / "student.py"))["get_config"]("demo")
    c.update_from_flattened_dict(
        {
            "batch_size": 24,
            "total_steps": 10,
            "input_size": SIZE,
            "optim.warmup": 2,
            # Adam's first update is rate * sign(gradient), and where the true gradient is zero (a
            # key's bias) the sign is rounding noise: small rates keep it out of later losses.
            "optim.encoder_lr": 1e-6,
            "optim.decoder_lr": 1e-5,
            **fields,
        }
    )
    return c


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
        lambda k: state.new_state(init(student)(k), tx, ema=c.ema_decay > 0), jax.random.key(0)
    )
    layout = sharding.tree_shardings(abstract, mesh)
    params = first_params()
    first = jax.device_put(state.new_state(params, tx, ema=c.ema_decay > 0), layout)
    frozen = {"encoder": other(params, 1)["encoder"]}
    networks = state.Networks(student, encoder, student if teacher else None)
    if teacher:
        frozen["teacher"] = other(params, 2)
    step = state.jit_train_step(state.make_train_step(networks, tx, c), mesh, layout)
    frozen = jax.device_put(frozen, sharding.tree_shardings(frozen, mesh))
    return first, frozen, step


@functools.cache
def first_params():
    """One random start for all tests (numpy): compiling it takes longer than a step."""
    program = initial.compile_quickly(init(models.build(TINY)), None)
    return jax.tree.map(np.asarray, program(jax.random.key(0)))


def other(params, seed):
    """Another network's parameters: these, disturbed."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32), params
    )


def init(student):
    return lambda key: student.init(key, jnp.zeros((1, SIZE, SIZE, 3)))["params"]


def run(c, mesh, steps=2, teacher=False):
    train_state, frozen, step = setup(c, mesh, teacher)
    history = []
    with jax.set_mesh(mesh):
        for i in range(steps):
            train_state, metrics = step(
                train_state, frozen, sharding.put_batch(batch(seed=i), mesh)
            )
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
    return run(config(), sharding.make_mesh(devices=jax.devices()[:1]))


def check_same(one, other, rtol):
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            # The gradient of |r| jumps where rounding turns the sign of a residual near 0, and
            # where it moves one across the trimming threshold; the losses do not.
            bound = rtol * (100 if "norm" in name else 1)
            assert a[name] == pytest.approx(b[name], rel=bound, abs=bound), name
    a, b = (paths.leaves_by_path(x[0].params) for x in (one, other))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2)])
def test_eight_devices_give_the_numbers_of_one(alone, data, fsdp):
    sharded = run(config(), sharding.make_mesh(data, fsdp))
    check_same(alone, sharded, 1e-5)  # float32 sums in another order
    if fsdp == 2:
        kernel = sharded[0].params["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert kernel.sharding.spec == jax.P(None, None, "fsdp")


def test_accumulation_gives_the_gradient_of_the_whole_batch(alone):
    c = config(accumulation=4)
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
    c = config(teacher="online", accumulation=2, ema_decay=0.75)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
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
    c = config(**{"optim.freeze": (r"(?!decoder/resize_layers_3/kernel).*",)})
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    first, frozen, step = setup(c, mesh)
    before = paths.leaves_by_path(jax.tree.map(np.asarray, first.params))
    after, metrics = step(first, frozen, sharding.put_batch(batch(), mesh))
    changed = [
        p
        for p, x in paths.leaves_by_path(after.params).items()
        if (np.asarray(x) != before[p]).any()
    ]
    assert changed == ["decoder/resize_layers_3/kernel"]
    assert float(metrics["grad_norm/encoder"]) == 0
