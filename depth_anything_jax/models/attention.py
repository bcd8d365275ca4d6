"""Full self-attention with interchangeable back-ends.

"einsum"  plain, any float dtype, softmax in at least float32; the reference of the tests.
"outlined"  the same as a call, which `inference.openvino_graph` replaces by OpenVINO's operator.
"blocks"  the same, one head and some rows after another, so that scores stay in a CPU's cache.
"xla"     `jax.nn.dot_product_attention`; its softmax is float32, so not for float64.
"cudnn"   fused kernel of cuDNN: NVIDIA GPUs, bfloat16 or float16.
"splash"  fused Pallas kernel: TPUs, bfloat16 or float32.
"auto"    splash on TPU, cudnn on GPU at 16 bits, blocks on CPU for many scores, else einsum.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from depth_anything_jax.parallel import placement
from depth_anything_jax.utils.choices import one_of

BACKENDS = ("auto", "einsum", "outlined", "blocks", "xla", "cudnn", "splash")
LANES = 128  # splash blocks are multiples of this many tokens
MANY_SCORES = 2**22  # from here, 16 MiB in float32, "blocks" is faster on CPU
BLOCK_SCORES = 2**21  # that many does "blocks" hold at a time: one head at 518 x 518


def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b n h d"],
    v: Float[Array, "b n h d"],
    *,
    backend: str = "auto",
) -> Float[Array, "b n h d"]:
    """softmax(q k^T / sqrt(d)) v per head, in q's dtype.

    Raises:
      ValueError: `backend` is not one of BACKENDS, or would narrow float64.
    """
    one_of("attention", backend, BACKENDS)
    if backend == "auto":
        scores = q.shape[0] * q.shape[2] * q.shape[1] ** 2
        backend = choose_backend(q.dtype, placement.platform(), scores)
    if q.dtype == jnp.float64 and backend not in ("einsum", "outlined", "blocks"):
        raise ValueError(
            f"attention={backend!r} computes its softmax in float32 and would narrow this float64 "
            "run; use attention='einsum' or 'auto'"
        )
    if backend == "einsum":
        return einsum_attention(q, k, v)
    if backend == "outlined":
        return outlined_attention(q, k, v)
    if backend == "blocks":
        return blocks_attention(q, k, v)
    if backend == "splash":
        return splash_attention(q, k, v)
    if backend == "cudnn":
        return cudnn_attention(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation=backend)


def choose_backend(dtype: Any, platform: str, scores: int) -> str:
    """Chooses the back-end of "auto" for a compute dtype, "cpu", "gpu" or "tpu", and b h n n."""
    if dtype == jnp.float64:
        return "einsum"
    if platform == "tpu":
        return "splash"
    if platform in ("gpu", "cuda") and jnp.finfo(dtype).bits == 16:
        return "cudnn"
    return "blocks" if platform == "cpu" and scores >= MANY_SCORES else "einsum"


def einsum_attention(
    q: Float[Array, "b q h d"], k: Float[Array, "b n h d"], v: Float[Array, "b n h d"]
) -> Float[Array, "b q h d"]:
    """Attention as two einsums with the softmax in at least float32."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=accumulate
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


@jax.jit
def outlined_attention(
    q: Float[Array, "b n h d"], k: Float[Array, "b n h d"], v: Float[Array, "b n h d"]
) -> Float[Array, "b n h d"]:
    """`einsum_attention`, which stays one equation with this name in a traced program."""
    return einsum_attention(q, k, v)


def blocks_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b n h d"],
    v: Float[Array, "b n h d"],
    *,
    block_scores: int = BLOCK_SCORES,
) -> Float[Array, "b n h d"]:
    """`einsum_attention` head by head, and block by block of a head's rows where those are many.

    On CPU the scores of all heads (45 MB for ViT-S at 518 x 518) are written to memory and read
    back several times, which costs more than the products. The backward pass computes them again,
    no slower than reading them. The batch is not split: it may be sharded.
    """
    attend = jax.checkpoint(_one_head, prevent_cse=False)  # inside a map
    b, n = q.shape[:2]
    count = min(n, -(-b * n * n // block_scores))
    rows = -(-n // count)
    count = -(-n // rows)

    def one_head(qkv: tuple[Array, Array, Array]) -> Array:
        q, k, v = qkv
        if count == 1:
            return attend(q, k, v)
        # Rows of zeros fill the last block; what they attend to is cut off.
        q = jnp.pad(q, ((0, 0), (0, count * rows - n), (0, 0)))
        q = jnp.moveaxis(q.reshape(b, count, rows, -1), 1, 0)
        y = jax.lax.map(lambda q: attend(q, k, v), q)
        return jnp.moveaxis(y, 0, 1).reshape(b, count * rows, -1)[:, :n]

    heads = jax.lax.map(one_head, tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v)))
    return jnp.moveaxis(heads, 0, 2)


def _one_head(
    q: Float[Array, "b q d"], k: Float[Array, "b n d"], v: Float[Array, "b n d"]
) -> Float[Array, "b q d"]:
    """Attention of one head; the softmax's sum divides what is d wide, not what is n wide."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum(
        "bqd,bkd->bqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=accumulate
    )
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    y = jnp.einsum("bqk,bkd->bqd", weights.astype(v.dtype), v, preferred_element_type=accumulate)
    return (y / total).astype(v.dtype)


def cudnn_attention(
    q: Float[Array, "b n h d"], k: Float[Array, "b n h d"], v: Float[Array, "b n h d"]
) -> Float[Array, "b n h d"]:
    """Attention by cuDNN's fused kernel.

    Training with an odd number of tokens (252 pixels: 325) is refused by jax 0.10.2, which takes
    its empty placeholder for a bias (`check_is_flash_attention`): one token of zeros is added,
    which nobody attends to. Lowered for eight GPUs, and run on none yet.
    """
    tokens = q.shape[1]
    if tokens % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = placement.split_batch(jnp.full(q.shape[0], tokens, jnp.int32))
    y = jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return y[:, :tokens]


def splash_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b n h d"],
    v: Float[Array, "b n h d"],
) -> Float[Array, "b n h d"]:
    """Attention by the Pallas splash kernel, padded to whole blocks; interpreted on CPUs.

    Padding tokens get a segment of their own, so that no real token sees them. The compiler cannot
    partition the kernel: where a mesh is in context it runs in a shard_map over the batch.

    Raises:
      ValueError: the batch does not divide over the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kernel = functools.partial(_splash_local, interpret=placement.platform() == "cpu")
    if mesh.empty:
        return kernel(q, k, v)
    axes = tuple(mesh.axis_names)
    if q.shape[0] % mesh.size:
        raise ValueError(
            f"splash attention splits the batch over all {mesh.size} devices of the mesh, and "
            f"{q.shape[0]} images do not divide; change the batch size or use attention='xla'"
        )
    spec = jax.P(axes)
    return jax.shard_map(kernel, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)(
        q, k, v
    )


def _splash_local(q: Array, k: Array, v: Array, *, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    tokens, heads, width = q.shape[1:]
    padded = -(-tokens // LANES) * LANES
    narrow, wide = _block(padded, 512), _block(padded, 2048)
    blocks = splash.BlockSizes(
        block_q=narrow,
        block_kv=wide,
        block_kv_compute=wide,
        block_q_dkv=narrow,
        block_kv_dkv=wide,
        block_kv_dkv_compute=wide,
        block_q_dq=narrow,
        block_kv_dq=wide,
    )
    mask = masks.MultiHeadMask([masks.FullMask((padded, padded))] * heads)
    kernel = splash.make_splash_mha(
        mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    segments = (jnp.arange(padded) >= tokens).astype(jnp.int32)
    ids = splash.SegmentIds(q=segments, kv=segments)

    def prepare(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0), (0, 0))).swapaxes(1, 2)

    q, k, v = prepare(q * width**-0.5), prepare(k), prepare(v)
    out = jax.vmap(lambda q, k, v: kernel(q, k, v, ids))(q, k, v)
    return out.swapaxes(1, 2)[:, :tokens].astype(v.dtype)


def _block(tokens: int, most: int) -> int:
    """The largest multiple of LANES that divides `tokens` and is at most `most`."""
    return max(b for b in range(LANES, min(tokens, most) + 1, LANES) if tokens % b == 0)
