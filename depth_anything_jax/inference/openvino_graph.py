"""Translates a traced JAX function, equation by equation, to an OpenVINO model.

`translate` traces the function and walks its jaxpr. What does not depend on the function's argument
(the parameters, position embeddings, resize weights) is computed now and becomes constants; every
other equation becomes OpenVINO's operators by `Translation`'s table. Attention, which networks
built with attention="outlined" keep as one call, becomes OpenVINO's fused operator.

Only the operations that the inference of this project's networks has are known; another one is a
NotImplementedError with its name, never a wrong result.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OUTLINED = "outlined_attention"  # the call's name, models.attention.outlined_attention


def load() -> Any:
    """Imports openvino without its telemetry.

    That would tell a server of every import, from a fork of this process, which JAX's threads do
    not bear. Where a program has imported openvino before, it stays as it is.

    Raises:
      ImportError: openvino is not installed.
    """
    if "openvino" not in sys.modules:
        kept = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it has a stub then
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if kept is not None:
                sys.modules["openvino_telemetry"] = kept
    return importlib.import_module("openvino")


def translate(function: Callable[[jax.Array], jax.Array], shape: Sequence[int]) -> Any:
    """Returns `function` of one float32 array of `shape` as an `openvino.Model`.

    Raises:
      ImportError: openvino is not installed.
      NotImplementedError: an operation that is not in the table.
    """
    openvino = load()
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(tuple(shape), jnp.float32))
    argument = openvino.opset15.parameter(list(shape), np.float32, name="images")
    outputs = Translation(openvino.opset15).run(traced.jaxpr, traced.consts, [_Node(argument)])
    return openvino.Model([o.output for o in outputs], [argument], "depth_anything")


class _Node:
    """A value that is known only when the model runs; everything else is a NumPy array."""

    def __init__(self, node: Any):
        self.output = node.output(0)


class Translation:
    """Translates equations. Methods `_NAME` are JAX's primitives: (parameters, output, inputs)."""

    def __init__(self, ops: Any):
        self.ops = ops

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr, each a NumPy array where it depends on no argument."""
        values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Any:
            literal = hasattr(variable, "val")
            return np.asarray(variable.val, variable.aval.dtype) if literal else values[variable]

        for equation in jaxpr.eqns:
            found = self._equation(equation, [read(v) for v in equation.invars])
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Any]) -> list[Any]:
        name, parameters = equation.primitive.name, equation.params
        known = not any(isinstance(x, _Node) for x in inputs)
        if name == "jit" and parameters["name"] == OUTLINED and not known:
            return [self._attention(*inputs)]
        for field in ("jaxpr", "call_jaxpr", "fun_jaxpr"):  # a function's call: jit, custom_vjp …
            inner = parameters.get(field)
            if inner is not None and name not in ("scan", "while"):
                if hasattr(inner, "jaxpr"):  # a closed one
                    return self.run(inner.jaxpr, inner.consts, inputs)
                return self.run(inner, [], inputs)
        if known:
            return _computed(equation, inputs)
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise NotImplementedError(
                f"OpenVINO: JAX's operation {name!r} is not translated; use runtime='jax'"
            )
        nodes = [x.output if isinstance(x, _Node) else self._constant(x) for x in inputs]
        made = translate(parameters, equation.outvars[0].aval, equation.invars, *nodes)
        return [_Node(x) for x in (made if isinstance(made, list) else [made])]

    def _constant(self, values: Any) -> Any:
        return self.ops.constant(np.asarray(values, order="C"))

    def _whole(self, numbers: Any) -> Any:
        return self._constant(np.asarray(numbers, np.int64))

    def _shaped(self, x: Any, shape: Sequence[int]) -> Any:
        return self.ops.reshape(x, self._whole(shape), False)

    def _permuted(self, x: Any, order: Sequence[int]) -> Any:
        same = list(order) == list(range(len(order)))
        return x if same else self.ops.transpose(x, self._whole(order))

    # --- arithmetic -----------------------------------------------------------------------------

    def _add(self, parameters, output, variables, x, y):
        return self.ops.add(x, y)

    def _sub(self, parameters, output, variables, x, y):
        return self.ops.subtract(x, y)

    def _mul(self, parameters, output, variables, x, y):
        return self.ops.multiply(x, y)

    def _div(self, parameters, output, variables, x, y):
        return self.ops.divide(x, y)

    def _max(self, parameters, output, variables, x, y):
        return self.ops.maximum(x, y)

    def _min(self, parameters, output, variables, x, y):
        return self.ops.minimum(x, y)

    def _ne(self, parameters, output, variables, x, y):
        return self.ops.not_equal(x, y)

    def _neg(self, parameters, output, variables, x):
        return self.ops.negative(x)

    def _abs(self, parameters, output, variables, x):
        return self.ops.abs(x)

    def _exp(self, parameters, output, variables, x):
        return self.ops.exp(x)

    def _log(self, parameters, output, variables, x):
        return self.ops.log(x)

    def _log1p(self, parameters, output, variables, x):
        """log(1 + x), also where 1 + x rounds x away (Kahan's quotient), as in a small softplus."""
        one = self._constant(np.float32(1))
        u = self.ops.add(x, one)
        exact = self.ops.multiply(self.ops.log(u), self.ops.divide(x, self.ops.subtract(u, one)))
        return self.ops.select(self.ops.equal(u, one), x, exact)

    def _erf(self, parameters, output, variables, x):
        return self.ops.erf(x)

    def _erfc(self, parameters, output, variables, x):
        return self.ops.subtract(self._constant(np.float32(1)), self.ops.erf(x))

    def _logistic(self, parameters, output, variables, x):
        return self.ops.sigmoid(x)

    def _rsqrt(self, parameters, output, variables, x):
        return self.ops.power(x, self._constant(np.float32(-0.5)))

    def _square(self, parameters, output, variables, x):
        return self.ops.multiply(x, x)

    def _integer_pow(self, parameters, output, variables, x):
        return self.ops.power(x, self._constant(np.float32(parameters["y"])))

    def _select_n(self, parameters, output, variables, which, if_false, if_true):
        return self.ops.select(which, if_true, if_false)

    def _convert_element_type(self, parameters, output, variables, x):
        return self.ops.convert(x, np.dtype(output.dtype))

    def _copy(self, parameters, output, variables, x):
        return self.ops.convert(x, np.dtype(output.dtype))  # to its own type: nothing

    _stop_gradient = _copy

    # --- along axes -----------------------------------------------------------------------------

    def _reduce_sum(self, parameters, output, variables, x):
        return self.ops.reduce_sum(x, self._whole(parameters["axes"]), False)

    def _reduce_max(self, parameters, output, variables, x):
        return self.ops.reduce_max(x, self._whole(parameters["axes"]), False)

    def _cumsum(self, parameters, output, variables, x):
        return self.ops.cum_sum(x, self._whole(parameters["axis"]), False, parameters["reverse"])

    def _sort(self, parameters, output, variables, x):
        axis = parameters["dimension"]
        return self.ops.topk(x, self._whole(output.shape[axis]), axis, "min", "value")

    # --- shapes ---------------------------------------------------------------------------------

    def _reshape(self, parameters, output, variables, x):
        return self._shaped(x, output.shape)

    _squeeze = _reshape

    def _transpose(self, parameters, output, variables, x):
        return self.ops.transpose(x, self._whole(parameters["permutation"]))

    def _broadcast_in_dim(self, parameters, output, variables, x):
        shape = [1] * len(output.shape)
        for axis, n in zip(
            parameters["broadcast_dimensions"], variables[0].aval.shape, strict=True
        ):
            shape[axis] = n
        x = self._shaped(x, shape)
        same = tuple(shape) == tuple(output.shape)
        return x if same else self.ops.broadcast(x, self._whole(output.shape))

    def _concatenate(self, parameters, output, variables, *parts):
        return self.ops.concat(list(parts), parameters["dimension"])

    def _slice(self, parameters, output, variables, x):
        start, stop = parameters["start_indices"], parameters["limit_indices"]
        steps = parameters["strides"] or [1] * len(start)
        return self.ops.slice(x, *map(self._whole, (start, stop, steps)))

    def _split(self, parameters, output, variables, x):
        sizes, axis = self._whole(parameters["sizes"]), self._whole(parameters["axis"])
        parts = self.ops.variadic_split(x, axis, sizes)
        return [_First(parts.output(i)) for i in range(len(parameters["sizes"]))]

    def _unstack(self, parameters, output, variables, x):  # from JAX 0.12 on
        axis = parameters["axis"]
        count = variables[0].aval.shape[axis]
        parts = self.ops.split(x, self._whole(axis), count)
        return [self._shaped(parts.output(i), output.shape) for i in range(count)]

    def _gather(self, parameters, output, variables, x, indices):
        """Takes along one axis, which is all that our resizing asks of it."""
        d, shape = parameters["dimension_numbers"], variables[0].aval.shape
        axis, extent = d.start_index_map[0], len(variables[1].aval.shape) - 1
        taken = range(axis, axis + extent)  # axes of the output that the indices make
        others = tuple(i for i in range(len(output.shape)) if i not in taken)
        sizes = tuple(1 if i == axis else n for i, n in enumerate(shape))
        expected = ((axis,), (axis,), others, sizes)
        found = (d.start_index_map, d.collapsed_slice_dims, d.offset_dims)
        if (*found, tuple(parameters["slice_sizes"])) != expected:
            raise NotImplementedError(f"OpenVINO: a gather of {parameters} is not translated")
        indices = self._shaped(indices, variables[1].aval.shape[:-1])
        return self.ops.gather(x, indices, self._whole(axis))

    # --- products -------------------------------------------------------------------------------

    def _dot_general(self, parameters, output, variables, x, y):
        """A matrix product, batched over the batch axes: (batch, free, k) by (batch, free, k)."""
        (contract_x, contract_y), (batch_x, batch_y) = parameters["dimension_numbers"]

        def rows(array, shape, batch, contract):
            free = [i for i in range(len(shape)) if i not in (*batch, *contract)]
            count = int(np.prod([shape[i] for i in free]))
            k = int(np.prod([shape[i] for i in contract]))
            array = self._permuted(array, [*batch, *free, *contract])
            return self._shaped(array, [*(shape[i] for i in batch), count, k])

        x = rows(x, variables[0].aval.shape, batch_x, contract_x)
        y = rows(y, variables[1].aval.shape, batch_y, contract_y)
        return self._shaped(self.ops.matmul(x, y, False, True), output.shape)

    def _conv_general_dilated(self, parameters, output, variables, x, kernel):
        d, padding = parameters["dimension_numbers"], parameters["padding"]
        if parameters["feature_group_count"] != 1 or set(parameters["lhs_dilation"]) != {1}:
            raise NotImplementedError(f"OpenVINO: a convolution {parameters} is not translated")
        y = self.ops.convolution(
            self._permuted(x, d.lhs_spec),
            self._permuted(kernel, d.rhs_spec),
            list(parameters["window_strides"]),
            [before for before, _ in padding],
            [after for _, after in padding],
            list(parameters["rhs_dilation"]),
        )
        return self._permuted(y, np.argsort(d.out_spec).tolist())

    def _attention(self, q: _Node, k: _Node, v: _Node) -> _Node:
        """softmax(q kᵀ / √d) v, of (b, n, h, d) each, in one operator that holds no scores."""
        swapped = [self._permuted(x.output, (0, 2, 1, 3)) for x in (q, k, v)]
        y = self.ops.scaled_dot_product_attention(*swapped)
        return _Node(self._permuted(y, (0, 2, 1, 3)))


class _First:
    """One output of a node with several, with the interface of a node."""

    def __init__(self, output: Any):
        self._output = output

    def output(self, _: int) -> Any:
        return self._output


_NUMPY: dict[str, Callable[..., Any]] = {  # those on parameters, which JAX would compile one by one
    "reshape": lambda p, out, x: x.reshape(out.shape),
    "squeeze": lambda p, out, x: x.reshape(out.shape),
    "transpose": lambda p, out, x: x.transpose(p["permutation"]),
    "slice": lambda p, out, x: x[
        tuple(map(slice, p["start_indices"], p["limit_indices"], p["strides"] or [None] * x.ndim))
    ],
}


def _computed(equation: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of an equation without unknown inputs."""
    primitive = equation.primitive
    if primitive.name in _NUMPY:
        return [_NUMPY[primitive.name](equation.params, equation.outvars[0].aval, *inputs)]
    found = primitive.bind(*map(jnp.asarray, inputs), **equation.params)
    return [np.asarray(x) for x in (found if primitive.multiple_results else [found])]
