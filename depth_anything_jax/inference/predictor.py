"""Runs a model over many images of many shapes in same-shape SPMD batches; images are not padded.

`Predictor` is the device side, `predict_all` the host side: it groups images of one shape and keeps
two batches in flight. `read_ahead` reads inputs in threads.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from depth_anything_jax.models.outputs import disparity
from depth_anything_jax.parallel.device_programs import (
    DeviceProgram,
    batch_sharding,
    data_mesh,
    device_program,
    replicated,
)

# Normalised NHWC images (b, h, w, 3) → maps (b, h, w), numpy or on the device.
Predict = Callable[[np.ndarray], Any]
IN_FLIGHT = 2  # batches on the device while the host prepares and stores others


def batch_of(least: int) -> int:
    """Rounds a batch size up to a multiple of this process's devices."""
    devices = jax.local_device_count()
    return -(-least // devices) * devices


def usual_batch(devices: list[Any]) -> int:
    """Returns the default batch size: eight images per device, on CPUs one."""
    return (1 if devices[0].platform == "cpu" else 8) * len(devices)


class Predictor:
    """Runs a model on this process's devices: normalised images in, maps out.

    The batch is split over the devices, the parameters are on each of them. One program is compiled
    for each shape. Processes do not wait for each other.

    Args:
      model: from `models.build`.
      params: its parameters.
      devices: None takes this process's.
      output: `disparity`, for any head, or `raw_output`.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        *,
        devices: list[Any] | None = None,
        output: Callable[[Any, Any, jax.Array], jax.Array] = disparity,
    ):
        self.devices = jax.local_devices() if devices is None else devices
        mesh = data_mesh(self.devices)
        self._split = batch_sharding(mesh)
        self._params = jax.device_put(params, replicated(mesh))
        self._run = program(model, mesh, output)

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> jax.Array:
        """Maps (b, h, w), computed asynchronously.

        Raises:
          ValueError: the batch does not divide over the devices.
        """
        if len(images) % len(self.devices):
            raise ValueError(
                f"a batch of {len(images)} does not divide over {len(self.devices)} devices: use "
                f"a multiple of {len(self.devices)}"
            )
        return self._run(self._params, jax.device_put(images, self._split))


@functools.lru_cache(maxsize=8)
def program(
    model: Any, mesh: Mesh, output: Callable[[Any, Any, jax.Array], jax.Array]
) -> DeviceProgram:
    """Builds the forward pass as a program, shared by all predictors of a model, so that repeated
    evaluations during training compile once."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        return output(model, params, images)

    return device_program("inference.predict", run, mesh, out_shardings=batch_sharding(mesh))


class Input(NamedTuple):
    """A prepared image.

    Attributes:
      tag: any value, returned with the prediction.
      image: normalised (h, w, 3) float32.
    """

    tag: Any
    image: np.ndarray


class Output(NamedTuple):
    """A prediction: the tag of its input, and the map (h, w)."""

    tag: Any
    map: np.ndarray


class Stats:
    """Counts of `predict_all`.

    Attributes:
      shapes: (batch, height, width) that the network ran at: one program each.
      images: predicted.
      padding: images computed only to fill batches.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Resets all counts."""
        self.shapes: set[tuple[int, int, int]] = set()
        self.images = self.padding = 0


def read_ahead(
    read: Callable[[Any], Any], indices: Iterable[Any], *, threads: int
) -> Iterator[tuple[Any, Any]]:
    """Yields (index, result of `read` or the exception it raised) in order; reads in threads."""

    def attempt(index: Any) -> Any:
        try:
            return read(index)
        except Exception as error:  # decoders raise all kinds; the caller decides
            return error

    window: collections.deque[tuple[Any, concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            for index in indices:
                window.append((index, pool.submit(attempt, index)))
                if len(window) > 2 * threads:
                    first, future = window.popleft()
                    yield first, future.result()
            while window:
                first, future = window.popleft()
                yield first, future.result()
        finally:
            for _, future in window:
                future.cancel()


def predict_all(
    predict: Predict,
    inputs: Iterable[Input],
    *,
    batch_size: int,
    stats: Stats | None = None,
    max_waiting: int = 256,
) -> Iterator[Output]:
    """Predicts all inputs, in the order in which batches of one shape fill up.

    An incomplete batch repeats its last image and drops the copies, so that each shape needs one
    program and no prediction depends on the other images of its batch.

    Args:
      predict: see Predict; called with exactly `batch_size` images of one shape.
      inputs: consumed lazily.
      batch_size: images at a time.
      stats: is updated.
      max_waiting: maximum number of images that wait for others of their shape; beyond it the
        largest incomplete batch runs.

    Raises:
      RuntimeError: the network failed; the message has the batch's shape.
    """
    stats = Stats() if stats is None else stats
    waiting: dict[tuple[int, ...], list[Input]] = collections.defaultdict(list)
    held = 0
    in_flight: collections.deque[tuple[list[Input], Any]] = collections.deque()

    def start(shape: tuple[int, ...]) -> None:
        nonlocal held
        group = waiting.pop(shape)
        held -= len(group)
        padding = batch_size - len(group)
        images = np.stack([x.image for x in group] + [group[-1].image] * padding)
        stats.shapes.add((batch_size, shape[0], shape[1]))
        stats.images += len(group)
        stats.padding += padding
        in_flight.append((group, _explained(lambda: predict(images), images.shape)))

    def collect() -> Iterator[Output]:
        group, out = in_flight.popleft()
        shape = (batch_size, *group[0].image.shape)
        maps = _explained(lambda: np.asarray(out), shape)
        if maps.shape != shape[:3]:
            raise RuntimeError(f"the network made {maps.shape} of a batch of {shape}")
        for x, y in zip(group, maps, strict=False):
            yield Output(x.tag, y)

    for x in inputs:
        waiting[x.image.shape].append(x)
        held += 1
        if len(waiting[x.image.shape]) == batch_size:
            start(x.image.shape)
        elif held > max_waiting:
            start(max(waiting, key=lambda shape: len(waiting[shape])))
        while len(in_flight) > IN_FLIGHT:
            yield from collect()
    for shape in sorted(waiting):
        start(shape)
        while len(in_flight) > IN_FLIGHT:
            yield from collect()
    while in_flight:
        yield from collect()


def _explained(call: Callable[[], Any], shape: tuple[int, ...]) -> Any:
    try:
        return call()
    except RuntimeError as error:  # XlaRuntimeError: mostly memory
        raise RuntimeError(
            f"the network failed on a batch of {shape[0]} images of {shape[1]}x{shape[2]}: "
            f"{error}. A smaller batch needs less memory; so do long thin images at fewer pixels"
        ) from error
