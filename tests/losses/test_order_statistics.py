"""Order selection by counting against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from depth_anything_jax.losses import order_statistics

N = 13
kth = jax.jit(order_statistics.kth_smallest)


def floats(dtype):
    width = 8 * np.dtype(dtype).itemsize
    some = st.floats(width=width, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5])
    return arrays.arrays(dtype, (4, N), elements=some)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_keep_the_order(x64, dtype):
    tiny, large = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([-np.inf, -large, -1, -tiny, -0.0, 0.0, tiny, 1, large, np.inf, np.nan], dtype)
    bits = np.asarray(order_statistics.ordered_bits(jnp.asarray(x)))
    assert (np.diff(bits.astype(object)) > 0).all()
    back = np.asarray(order_statistics.from_ordered_bits(jnp.asarray(bits)))
    np.testing.assert_array_equal(back, x)
    assert back.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_rank_equals_the_sorted_element(dtype):
    @settings(max_examples=60, deadline=None)
    @given(floats(dtype), arrays.arrays(bool, (4, N)))
    def check(x, mask):
        with jax.enable_x64(True):
            for k in (1, 2, 7, N):
                got = np.asarray(kth(jnp.asarray(x), jnp.asarray(mask), jnp.full(4, k)))
                assert got.dtype == dtype
                for row in range(4):
                    values = np.sort(x[row][mask[row]])
                    want = values[min(k, len(values)) - 1] if len(values) else 0
                    assert got[row] == want

    check()


def test_lower_median_and_its_gradient_equal_torch(x64):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 40))
    x[1] = rng.integers(0, 3, 40)  # ties
    x[2] = 1.5
    mask = rng.random((5, 40)) < 0.7
    mask[3] = np.arange(40) == 6
    mask[4] = False
    x[~mask] = np.resize([np.nan, np.inf, -np.inf], (~mask).sum())
    weights = jnp.arange(1.0, 6)

    def total(x):
        return (order_statistics.masked_median(x, jnp.asarray(mask)) * weights).sum()

    median = order_statistics.masked_median(jnp.asarray(x), jnp.asarray(mask))
    gradient = jax.jit(jax.grad(total))(jnp.asarray(x))
    for i in range(4):
        row = torch.tensor(x[i], requires_grad=True)
        want = torch.median(row[torch.tensor(mask[i])])
        (want * float(weights[i])).backward()
        assert median[i] == want.item()
        np.testing.assert_allclose(gradient[i], row.grad, rtol=0, atol=1e-15)  # one division
    assert median[4] == 0 and (gradient[4] == 0).all()


def test_gradient_is_shared_by_hundreds_of_ties():
    x = jax.random.uniform(jax.random.key(0), (1, 50_000)).astype(jnp.bfloat16)
    gradient = jax.grad(lambda x: order_statistics.masked_median(x, jnp.ones(x.shape, bool)).sum())(
        x
    )
    touched = gradient[gradient > 0]
    assert len(touched) > 100 and len(set(touched.tolist())) == 1
    np.testing.assert_allclose(touched.astype(jnp.float32).sum(), 1, rtol=1 / 128)  # bfloat16
    assert order_statistics.masked_median(x, jnp.ones(x.shape, bool)).dtype == jnp.float32


def test_one_map_through_several_masks():
    x = jnp.arange(10.0)[None]
    masks = jnp.stack([x < 4, x >= 4, x < 0], axis=1)
    median, tangent = jax.jvp(
        lambda x: order_statistics.masked_median(x[:, None], masks), (x,), (jnp.ones_like(x),)
    )
    np.testing.assert_array_equal(median, [[1, 6, 0]])
    np.testing.assert_array_equal(tangent, [[1, 1, 0]])
    np.testing.assert_array_equal(
        jax.vmap(lambda x, m: order_statistics.masked_median(x[None], m))(x, masks), median
    )


def test_thresholds_are_constants():
    x = jnp.arange(6.0)[None]
    gradient = jax.grad(lambda x: kth(x, x >= 0, jnp.array([3])).sum())(x)
    assert (gradient == 0).all()
