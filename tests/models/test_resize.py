"""Resizing and attention, each against an independent implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.models import attention as attentions
from depth_anything_jax.models import resize
from depth_anything_jax.models.attention import (
    MANY_SCORES,
    attention,
    blocks_attention,
    choose_backend,
    splash_attention,
)
from depth_anything_jax.models.resize import (
    MANY_SAMPLES,
    linear_matrix,
    resize_bilinear,
    resize_position_embedding,
)

ROUNDING = 1e-12  # float64, a few dozen operations on values of order 1


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("size", [(5, 7), (13, 9), (3, 1), (1, 14), (5, 2)])
def test_bilinear_against_torch(x64, size):
    torch = pytest.importorskip("torch")
    x = random(2, 5, 7, 3)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=True
    )
    ours = resize_bilinear(jnp.asarray(x), size)
    assert ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=ROUNDING)


def test_long_axes_against_torch(x64):
    """Value and gradient of axes that are gathered on CPU, up and down, beside one that is not."""
    torch = pytest.importorskip("torch")
    x, weight = random(2, MANY_SAMPLES + 3, 5, 3), random(2, 60, 9, 3, seed=1)
    y = torch.from_numpy(x).requires_grad_()
    theirs = torch.nn.functional.interpolate(
        y.permute(0, 3, 1, 2), size=(60, 9), mode="bilinear", align_corners=True
    ).permute(0, 2, 3, 1)
    (theirs * torch.from_numpy(weight)).sum().backward()
    for swap in (False, True):  # rows, then columns
        turn = lambda x, swap=swap: jnp.swapaxes(x, 1, 2) if swap else jnp.asarray(x)  # noqa: E731
        run = lambda x, swap=swap, turn=turn: turn(  # noqa: E731
            resize_bilinear(turn(x), (9, 60) if swap else (60, 9))
        )
        assert "gather" in str(jax.make_jaxpr(run)(x))
        np.testing.assert_allclose(run(x), theirs.detach(), atol=ROUNDING)
        gradient = jax.grad(lambda x, run=run: (run(x) * weight).sum())(jnp.asarray(x))
        np.testing.assert_allclose(gradient, y.grad, atol=ROUNDING)


def test_long_axes_have_the_same_weights_in_bfloat16():
    x = jnp.asarray(random(1, MANY_SAMPLES, 3, 2), jnp.bfloat16)
    gathered, multiplied = (
        f(x, 1, 300).astype(jnp.float32) for f in (resize._gathered, resize._multiplied)
    )
    # Two products and a sum, rounded each or once: half a unit of 2^-8 each.
    assert jnp.abs(gathered - multiplied).max() <= 1.5 * 2**-8 * jnp.abs(x).max()
    ones = resize._gathered(jnp.ones((1, MANY_SAMPLES, 1, 1), jnp.bfloat16), 1, 300)
    np.testing.assert_array_equal(ones.astype(jnp.float32), 1.0)


def test_bilinear_from_one_pixel():
    x = jnp.full((1, 1, 1, 2), 3.0)
    np.testing.assert_array_equal(resize_bilinear(x, (4, 5)), jnp.full((1, 4, 5, 2), 3.0))


def test_bilinear_keeps_constants_in_bfloat16():
    """Weights rounded one by one would scale rows by 1 +- 2^-9 and print a grid."""
    x = jnp.full((1, 8, 8, 1), 1.0, jnp.bfloat16)
    up = resize_bilinear(x, (14, 14))
    assert up.dtype == jnp.bfloat16
    np.testing.assert_array_equal(up.astype(jnp.float32), 1.0)
    matrix = linear_matrix(296, 518)
    naive = matrix.astype(jnp.bfloat16).astype(np.float64).sum(axis=1)
    assert np.abs(naive - 1).max() > 1e-3  # what the test would miss if rounding did no harm


@pytest.mark.parametrize("size", [(37, 49), (26, 37), (37, 123), (74, 98), (8, 8), (37, 36)])
def test_position_embedding_against_the_official_rule(x64, size):
    torch = pytest.importorskip("torch")
    table = random(1, 1 + 37 * 37, 4)
    grid = torch.from_numpy(table[:, 1:]).reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    scale = tuple((n + 0.1) / 37 for n in size)
    theirs = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic")
    ours = resize_position_embedding(jnp.asarray(table), size)
    assert ours.dtype == jnp.float64 and ours.shape == (1, 1 + size[0] * size[1], 4)
    np.testing.assert_array_equal(ours[:, 0], table[:, 0])
    np.testing.assert_allclose(ours[0, 1:], theirs[0].flatten(1).T, atol=1e-11)


def test_position_embedding_at_the_trained_size_is_untouched():
    table = jnp.asarray(random(1, 26, 4), jnp.float32)
    np.testing.assert_array_equal(resize_position_embedding(table, (5, 5)), table)


def test_position_embedding_of_no_square_grid_is_refused():
    with pytest.raises(ValueError, match="27 rows.*square"):
        resize_position_embedding(jnp.zeros((1, 28, 4)), (5, 5))


def qkv(b, n, h, d, dtype=jnp.float32):
    return [jnp.asarray(random(b, n, h, d, seed=s), dtype) for s in range(3)]


def test_einsum_attention_against_the_formula(x64):
    q, k, v = qkv(2, 11, 3, 8, jnp.float64)
    ours = attention(q, k, v, backend="auto")
    for b in range(2):
        for h in range(3):
            logits = np.asarray(q[b, :, h]) @ np.asarray(k[b, :, h]).T / np.sqrt(8)
            weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            np.testing.assert_allclose(ours[b, :, h], weights @ v[b, :, h], atol=ROUNDING)


def test_backends_agree():
    """Values and gradients; 145 tokens do not fill the kernel's blocks, so padding is at work."""
    q, k, v = qkv(1, 145, 2, 64)
    target = jnp.asarray(random(1, 145, 2, 64, seed=9), jnp.float32)

    def run(function):
        loss = lambda q, k, v: (function(q, k, v) * target).sum()  # noqa: E731
        return function(q, k, v), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    reference = run(lambda *x: attention(*x, backend="einsum"))
    xla = run(lambda *x: attention(*x, backend="xla"))
    splash = run(lambda *x: splash_attention(*x))
    one = run(lambda *x: attention(*x, backend="blocks"))
    # 49 rows a block: three blocks, and two rows of zeros in the last
    blocks = run(lambda *x: blocks_attention(*x, block_scores=145 * 49))
    for other in (xla, splash, one, blocks):  # float32 sums in another order
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), other, reference)


@pytest.mark.parametrize("block_scores", [1, 7 * 31, 10**9])
def test_blocks_of_any_size(x64, block_scores):
    """In float64, where nothing but rounding may differ; one row at a time to all at once."""
    q, k, v = qkv(2, 31, 3, 8, jnp.float64)

    def loss(function):
        return jax.value_and_grad(lambda *x: (function(*x) ** 3).sum(), (0, 1, 2))(q, k, v)

    ours = loss(lambda *x: blocks_attention(*x, block_scores=block_scores))
    theirs = loss(lambda *x: attention(*x, backend="einsum"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ROUNDING), ours, theirs)


def test_splash_under_a_mesh_splits_the_batch():
    q, k, v = qkv(8, 130, 1, 64)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda *x: splash_attention(*x), in_shardings=(rows,) * 3)(
            *(jax.device_put(x, rows) for x in (q, k, v))
        )
        with pytest.raises(ValueError, match="8 devices.*3 images"):
            splash_attention(q[:3], k[:3], v[:3])
    assert out.sharding.is_equivalent_to(rows, out.ndim)
    reference = attention(q, k, v, backend="einsum")
    np.testing.assert_allclose(out, reference, atol=2e-6)  # float32 sums in another order


def test_automatic_choice():
    many = MANY_SCORES
    assert choose_backend(jnp.bfloat16, "tpu", many) == "splash"
    assert choose_backend(jnp.bfloat16, "gpu", many) == "cudnn"
    assert choose_backend(jnp.float32, "gpu", many) == "einsum"
    assert choose_backend(jnp.bfloat16, "cpu", many) == "blocks"
    assert choose_backend(jnp.bfloat16, "cpu", many - 1) == "einsum"
    assert {choose_backend(jnp.float64, p, many) for p in ("cpu", "gpu", "tpu")} == {"einsum"}
    assert set(attentions.BACKENDS) == {"auto", *"einsum outlined blocks xla cudnn splash".split()}


def test_float64_is_never_narrowed(x64):
    q, k, v = qkv(1, 4, 1, 8, jnp.float64)
    for backend in ("xla", "cudnn", "splash"):
        with pytest.raises(ValueError, match="narrow this float64"):
            attention(q, k, v, backend=backend)
