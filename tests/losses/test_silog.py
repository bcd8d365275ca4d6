"""SiLog in float64 against the formulas in PyTorch, to 1e-9; its labels, counts and edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.losses import silog
from tests.helpers import hostile

torch = pytest.importorskip("torch")
from tests.torch_reference import losses as reference  # noqa: E402  (torch is known to be there)

TOLERANCE = 1e-9  # float64 on both sides; only the order of sums differs
FORMULAS = {"v2": reference.silog_v2, "v1": reference.silog_v1}


def cases():
    """name -> (prediction in metres, label in metres, valid), with what breaks a logarithm."""
    rng = np.random.default_rng(5)
    found = {}
    with np.errstate(over="ignore"):
        for name, (pred, label, valid, _) in hostile.cases().items():
            pred = np.exp(np.where(valid, np.clip(pred, -9, 9), pred))
            found[name] = (pred, 0.5 + 40 * label, valid)
    shape = (hostile.H, hostile.W)
    label, valid = rng.uniform(0.3, 20, shape), rng.random(shape) < 0.8
    pred = rng.uniform(0.3, 20, shape)
    underflow = rng.random(shape) < 0.2
    found["zero metres"] = (np.where(underflow, 0, pred), label, valid)
    found["zero metres everywhere"] = (0 * pred, label, valid)
    found["almost zero metres"] = (np.where(underflow, 1e-9, pred), label, valid)
    found["off by a factor"] = (3 * label, label, valid)
    found["almost perfect"] = (label * (1 + 1e-7 * rng.normal(size=shape)), label, valid)
    return found


def compiled(**kwargs):
    def value(*arrays):
        result = silog.silog(*arrays, **kwargs)
        return result.sum, result

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def from_torch(form, pred, label, valid, min_valid=10):
    """Value, gradient and count of the reference, of one map or of many as one."""
    if valid.sum() < min_valid:
        return 0.0, np.zeros_like(pred), 0
    p = torch.tensor(pred, requires_grad=True)
    loss = FORMULAS[form](p, torch.tensor(label), torch.tensor(valid))
    loss.backward()
    return float(loss.detach()), p.grad.numpy(), 1


def compare(found, want, name):
    (value, result), gradient = found
    want_value, want_gradient, want_count = want
    assert value.dtype == gradient.dtype == jnp.float64
    assert result.count == want_count, name
    assert abs(value - want_value) <= TOLERANCE * max(1, abs(want_value)), name
    bound = TOLERANCE * max(1, np.abs(want_gradient).max())
    np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=bound, err_msg=name)
    assert all(np.isfinite(np.array(pair)).all() for pair in result.logs.values()), name


@pytest.mark.parametrize("form", FORMULAS)
def test_silog_equals_the_formulas_on_hostile_maps(x64, form):
    loss, counts = compiled(form=form), set()
    for name, arrays in cases().items():
        want = from_torch(form, *arrays)
        (value, result), gradient = loss(*(jnp.asarray(a)[None] for a in arrays))
        # Almost perfect: torch subtracts two squares of 1e-7, which leaves half of its digits.
        if name != "almost perfect" or form == "v1":
            compare(((value, result), gradient[0]), want, f"{form}: {name}")
        else:
            assert value == pytest.approx(want[0], rel=1e-6)
        assert silog.contributing_maps(jnp.asarray(arrays[2])[None]) == want[2], name
        counts.add(want[2])
    assert counts == {0, 1}


@pytest.mark.parametrize("form", FORMULAS)
def test_pooled_over_the_batch_as_upstream_does(x64, form):
    chosen = [a for a in cases().values() if np.isfinite(a[0]).all()]
    batch = [np.stack(x) for x in zip(*chosen, strict=True)]
    found = compiled(form=form, pool="batch")(*map(jnp.asarray, batch))
    compare(found, from_torch(form, *batch), form)
    apart = compiled(form=form)(*map(jnp.asarray, batch))[0][1]
    assert abs(apart.sum / apart.count - found[0][0]) > 0.05  # it is another loss
    assert silog.contributing_maps(jnp.asarray(batch[2]), pool="batch") == 1


@pytest.mark.parametrize("form", FORMULAS)
def test_a_perfect_prediction_has_no_loss_and_no_gradient(form):
    label = jnp.asarray(np.random.default_rng(0).uniform(1, 9, (2, 5, 6)), jnp.float32)
    (value, _), gradient = compiled(form=form)(label, label, jnp.ones(label.shape, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_sigmoid_that_underflowed_is_pulled_back():
    """In float32, through the head's own sigmoid: V2's log would be -inf."""
    label, valid = jnp.full((1, 4, 5), 5.0), jnp.ones((1, 4, 5), bool)

    def loss(x):
        result = silog.silog(20 * jax.nn.sigmoid(x), label, valid)
        return result.sum, result.logs

    x = jnp.full((1, 4, 5), 1.0).at[0, 0].set(-30.0).at[0, 1].set(-200.0)
    (value, logs), gradient = jax.value_and_grad(loss, has_aux=True)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (gradient[0, 0] < 0).all()  # upwards
    assert logs["pred_zero_share"][0] == pytest.approx(0.5)
    assert logs["pred_max_share"][0] == pytest.approx(0.5)  # x = 1


def test_a_full_sigmoid_is_told_from_one_that_learns():
    """20 m everywhere in float32, whatever the values beneath: no gradient passes."""
    label, valid = jnp.full((2, 4, 5), 5.0), jnp.ones((2, 4, 5), bool)

    def share(x):
        return silog.silog(20 * jax.nn.sigmoid(x), label, valid).logs["pred_max_share"]

    values = jnp.linspace(30.0, 90.0, 40).reshape(2, 4, 5)
    assert share(values) == (2, 2)
    total, count = share(values / 100)
    assert total / count == pytest.approx(1 / 20)


def test_nan_reaches_the_sum_and_invalid_pixels_do_not():
    label, valid = jnp.full((1, 4, 5), 5.0), jnp.ones((1, 4, 5), bool).at[0, 0, 0].set(False)
    pred = jnp.full((1, 4, 5), 4.0)
    assert np.isfinite(silog.silog(pred.at[0, 0, 0].set(jnp.nan), label, valid).sum)
    assert np.isnan(silog.silog(pred.at[0, 0, 1].set(jnp.nan), label, valid).sum)


def test_microbatches_add_up_to_the_whole():
    rng = np.random.default_rng(1)
    pred, label = (jnp.asarray(rng.uniform(1, 9, (6, 5, 7))) for _ in range(2))
    valid = jnp.asarray(rng.random((6, 5, 7)) < 0.5).at[2].set(False)
    whole = silog.silog(pred, label, valid)
    parts = [silog.silog(*(x[i : i + 2] for x in (pred, label, valid))) for i in (0, 2, 4)]
    assert whole.count == sum(p.count for p in parts) == 5
    assert whole.sum == pytest.approx(float(sum(p.sum for p in parts)), rel=1e-6)


def test_labels_are_metres_within_the_range_and_canonical_with_a_ratio():
    depth = np.array([[[0.0005, 0.001, 3, 20, 20.1, 500, 0, -1]]], np.float32)
    valid = np.ones(depth.shape, bool)
    valid[0, 0, 2] = False
    how = dict(min_depth=0.001, max_depth=20.0)
    found, counts = silog.depth_label(jnp.asarray(depth), jnp.asarray(valid), **how)
    assert counts[0, 0].tolist() == [False, True, False, True, False, False, False, False]
    np.testing.assert_array_equal(found[counts], np.float32([0.001, 20]))
    assert (found[~counts] == 1).all()
    twice, more = silog.depth_label(jnp.asarray(depth), jnp.asarray(valid), jnp.array([0.5]), **how)
    np.testing.assert_allclose(twice[more], [10, 10.05], rtol=1e-6)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"form": "v3"}, "loss.silog='v3'.*v2, v1"),
        ({"pool": "device"}, "loss.silog_pool='device'.*image, batch"),
        ({"form": "v1", "min_valid": 1}, "min_valid=1.*at least 2"),
    ],
)
def test_refusals(how, message):
    x = jnp.ones((1, 4, 5))
    with pytest.raises(ValueError, match=message):
        silog.silog(x, x, x > 0, **how)
