"""Counts the floating-point operations of a network's products and convolutions.

Counted from the traced program with plain attention, loops as often as they run; a multiplication
and an addition are two. XLA's own count takes the body of a loop once (spec of jax: measured).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from depth_anything_jax.models import with_plain_attention


def of_image(network: Any, height: int, width: int) -> float:
    """Counts the FLOPs of one forward pass of a network or encoder on one image."""
    plain = with_plain_attention(network, remat="none")
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    params = jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros(image.shape)))
    traced = jax.make_jaxpr(lambda p, x: plain.apply(p, x))(params, image)
    return count(traced.jaxpr)


def count(jaxpr: Any) -> float:
    """Counts the FLOPs of the products and convolutions of a jaxpr."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, p = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = p["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(left[a] for a in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[p["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / outputs
        else:
            times = p["length"] if name == "scan" else 1
            total += times * sum(count(inner) for inner in _inner(p))
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    """Yields the jaxprs of an equation; of a custom derivative only the function's."""
    found = [params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr") if k in params]
    found += list(params.get("branches", ()))[:1]
    return [getattr(j, "jaxpr", j) for j in found]
