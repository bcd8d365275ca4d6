"""Value and gradient of every loss in float64 against the formulas in PyTorch, to 1e-9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.losses import relative
from tests.helpers import hostile

torch = pytest.importorskip("torch")
from tests.torch_reference import losses as reference  # noqa: E402  (torch is known to be there)

TOLERANCE = 1e-9  # float64 on both sides; only the order of sums differs

CUTMIX = {
    "paper": dict(trim=0.0),
    "ranked per region, one pixel will do": dict(trim=0.25, trim_per="region", min_valid=1),
    "default and gradient term": dict(gradient_weight=2.0),
    "guarded": dict(trim=0.3, min_region_scale=0.1, gradient_weight=0.5),
}
PLAIN = {
    "paper": dict(),
    "trimmed": dict(trim=0.2, gradient_weight=2.0, min_valid=1),
}


def from_torch(pred, label, valid, mask, **kwargs):
    """Value, gradient and count of the reference for one map."""
    p = torch.tensor(pred, requires_grad=True)
    mask = None if mask is None else torch.tensor(mask)
    loss = reference.map_loss(p, torch.tensor(label), torch.tensor(valid), mask, **kwargs)
    if loss is None:
        return 0.0, np.zeros_like(pred), 0
    loss.backward()
    return float(loss.detach()), p.grad.nan_to_num(np.nan).numpy(), 1


def check(compiled, name, arrays, want):
    (value, result), gradient = compiled(*(jnp.asarray(a)[None] for a in arrays))
    want_value, want_gradient, want_count = want
    assert value.dtype == gradient.dtype == jnp.float64
    assert result.count == want_count, name
    scale = max(1, abs(want_value))
    assert abs(value - want_value) <= TOLERANCE * scale, (name, value, want_value)
    scale = max(1, np.abs(want_gradient).max())
    np.testing.assert_allclose(
        gradient[0], want_gradient, rtol=0, atol=TOLERANCE * scale, err_msg=name
    )
    assert all(np.isfinite(np.array(pair)).all() for pair in result.logs.values()), name


def compiled(loss):
    def value(*arrays):
        result = loss(*arrays)
        return result.sum, result

    return jax.jit(jax.value_and_grad(value, has_aux=True))


@pytest.mark.parametrize("config", CUTMIX)
def test_loss_by_region_equals_the_formulas_on_hostile_maps(x64, config):
    kwargs = CUTMIX[config]
    loss = compiled(lambda *arrays: relative.affine_invariant_by_region(*arrays, **kwargs))
    counts = set()
    for name, arrays in hostile.cases().items():
        want = from_torch(*arrays, **{"trim": 0.1, **kwargs})
        check(loss, f"{config}: {name}", arrays, want)
        counts.add(want[2])
    assert counts == {0, 1}


@pytest.mark.parametrize("config", PLAIN)
def test_affine_invariant_equals_the_formulas_on_hostile_maps(x64, config):
    kwargs = PLAIN[config]
    loss = compiled(lambda *arrays: relative.affine_invariant(*arrays, **kwargs))
    for name, (pred, label, valid, _) in hostile.cases(1).items():
        want = from_torch(pred, label, valid, None, **kwargs)
        check(loss, f"{config}: {name}", (pred, label, valid), want)


@pytest.mark.parametrize("use_sky", [True, False])
def test_labels_equal_the_formulas(x64, use_sky):
    rng = np.random.default_rng(0)
    disparity = rng.uniform(0.2, 7, (10, 6, 7))
    valid, sky = rng.random((10, 6, 7)) < 0.6, rng.random((10, 6, 7)) < 0.5
    valid[:2], sky[2:4] = False, True
    valid[4:6], sky[4:6] = False, False
    disparity[6:8] = 1.5
    disparity[~valid] = np.resize([np.nan, np.inf, -np.inf, 1e30], (~valid).sum())
    shift_known = np.arange(10) % 2 == 0
    label, usable = relative.prepare_label(
        *map(jnp.asarray, (disparity, valid, sky, shift_known)), use_sky=use_sky
    )
    for i in range(10):
        arrays = (torch.tensor(a[i]) for a in (disparity, valid, sky))
        want, want_usable = reference.prepare_label(*arrays, bool(shift_known[i]), use_sky)
        want = torch.where(want_usable, want, 0)
        np.testing.assert_array_equal(usable[i], want_usable)
        np.testing.assert_allclose(label[i], want, rtol=0, atol=1e-15)  # one division


def test_sky_is_farthest_before_scaling_where_shift_is_known_and_after_it_elsewhere():
    disparity = jnp.full((2, 2, 2), jnp.inf).at[:, 0].set(jnp.array([2.0, 4.0]))
    valid = jnp.isfinite(disparity)
    known = jnp.array([True, False])
    label, usable = relative.prepare_label(disparity, valid, jnp.ones_like(valid), known)
    assert usable.all()
    np.testing.assert_array_equal(label[0], [[0.5, 1], [0, 0]])
    np.testing.assert_array_equal(label[1], [[0, 1], [0, 0]])


@pytest.mark.parametrize("denominator", ["image", "global"])
def test_feature_alignment_equals_the_formulas(x64, denominator):
    rng = np.random.default_rng(3)
    frozen = rng.normal(size=(4, 9, 5))
    student = frozen + rng.normal(size=frozen.shape) * rng.uniform(0, 2, (4, 9, 1))
    student[1] = frozen[1]  # nothing is active
    student[2, 3] = 0  # no direction
    frozen[2, 4] = 0
    student[3, :2] = 1e-180 * frozen[3, :2]  # squares underflow: no direction either
    loss = compiled(
        lambda s: relative.feature_alignment(s, jnp.asarray(frozen), denominator=denominator)
    )
    (value, result), gradient = loss(jnp.asarray(student))
    student[3, :2] = 0
    s = torch.tensor(student, requires_grad=True)
    want, count = reference.feature_alignment(s, torch.tensor(frozen), denominator=denominator)
    want.backward()
    assert result.count == count
    assert abs(value - want.item()) <= TOLERANCE
    np.testing.assert_allclose(gradient, s.grad, rtol=0, atol=TOLERANCE)
    active = np.array(result.logs["active_fraction"])
    assert 0.2 < active[0] / active[1] < 0.8
