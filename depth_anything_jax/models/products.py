"""Matrix products and convolutions with kernels, for training on many devices.

Kernels are float32 and are multiplied in the activations' dtype. Two things differ from letting
automatic differentiation do it (and there is no forward mode: `jax.jvp` raises):

- A kernel's gradient is computed in at least float32 (a sum over all pixels and images, which
  bfloat16 would round again on every device, and the devices' sum once more): the devices add up
  float32 numbers, as PyTorch's data parallelism does under autocast.
- Under fsdp the kernel is gathered in the activations' dtype where it is used, in the forward and
  again in the backward pass, and its gradient is scattered (`placement.whole_kernel`).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from depth_anything_jax.parallel.placement import split_kernel, whole_kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(
    x: Float[Array, "*b i"], kernel: Float[Array, "i o"], split: bool = True
) -> Float[Array, "*b o"]:
    """Computes x @ kernel in x's dtype; split: the kernel is one of those that fsdp splits."""
    return x @ _used(kernel, x, split)


def _matmul_forward(x: Array, kernel: Array, split: bool) -> tuple[Array, tuple[Array, Array]]:
    # The product itself, which remat="dots" looks for.
    return x @ _used(kernel, x, split), (x, kernel)


def _matmul_backward(split: bool, saved: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
    x, kernel = saved
    batch = tuple(range(x.ndim - 1))
    gradient = lax.dot_general(
        x, y, ((batch, batch), ((), ())), preferred_element_type=_wide(x, kernel)
    )
    return y @ _used(kernel, x, split).T, _kept(gradient, kernel, split)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def patch_product(
    x: Float[Array, "b h p w q c"], kernel: Float[Array, "p q c o"]
) -> Float[Array, "b h w o"]:
    """Multiplies every patch (p, q, c) by the kernel, in x's dtype: a convolution with stride =
    kernel size. Flattening the patches would cost a TPU's compiler five seconds."""
    return jnp.einsum("bhpwqc,pqco->bhwo", x, kernel.astype(x.dtype))


def _patches_backward(saved: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
    x, kernel = saved
    towards_x = jnp.einsum("bhwo,pqco->bhpwqc", y, kernel.astype(x.dtype))
    gradient = jnp.einsum("bhpwqc,bhwo->pqco", x, y, preferred_element_type=_wide(x, kernel))
    return towards_x, gradient.astype(kernel.dtype)


def _patches_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.einsum("bhpwqc,pqco->bhwo", x, kernel.astype(x.dtype)), (x, kernel)


patch_product.defvjp(_patches_forward, _patches_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c o"], stride: int = 1, split: bool = True
) -> Float[Array, "b H W o"]:
    """Convolves with an odd kernel and PyTorch's padding, (size - 1) / 2, in x's dtype; split: as
    for `matmul`."""
    return _convolve(x, _used(kernel, x, split), stride)


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[((n - 1) // 2,) * 2 for n in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolution_forward(
    x: Array, kernel: Array, stride: int, split: bool
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, _used(kernel, x, split), stride), (x, kernel)


def _convolution_backward(
    stride: int, split: bool, saved: tuple[Array, Array], y: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    narrow = _used(kernel, x, split)
    (towards_x,) = jax.linear_transpose(
        lambda x: _convolve(x, narrow, stride), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(y)
    # x convolved with y: channels take the place of images, and images that of channels.
    padding = []
    for n, size, outputs in zip(kernel.shape[:2], x.shape[1:3], y.shape[1:3], strict=True):
        low = (n - 1) // 2
        padding.append((low, n + stride * (outputs - 1) - size - low))
    gradient = lax.conv_general_dilated(
        x,
        y,
        window_strides=(1, 1),
        padding=padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=_wide(x, kernel),
    )
    return towards_x, _kept(gradient, kernel, split)


convolution.defvjp(_convolution_forward, _convolution_backward)


@jax.custom_vjp
def gathered(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gathers a kernel that is reshaped before its use; its gradient is scattered."""
    return whole_kernel(kernel)


gathered.defvjp(
    lambda kernel: (whole_kernel(kernel), None), lambda _, gradient: (split_kernel(gradient),)
)


def _used(kernel: Array, x: Array, split: bool) -> Array:
    narrow = kernel.astype(x.dtype)
    return whole_kernel(narrow) if split else narrow


def _kept(gradient: Array, kernel: Array, split: bool) -> Array:
    gradient = split_kernel(gradient) if split else gradient
    return gradient.astype(kernel.dtype)


def _wide(x: Array, kernel: Array):
    return jnp.promote_types(jnp.promote_types(x.dtype, kernel.dtype), jnp.float32)
