"""Running a model over many images of many shapes: SPMD batches of one shape, nothing padded.

`Predictor` is the device side, `predict_all` the host side: it reads ahead in threads, puts images
of one shape together, keeps two batches in flight, and gives results as they come.
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
    """The smallest batch of at least so many images that divides over this process's devices."""
    devices = jax.local_device_count()
    return -(-least // devices) * devices


def usual_batch(devices: list[Any]) -> int:
    """Images at a time on these devices: eight each, on CPUs one."""
    return (1 if devices[0].platform == "cpu" else 8) * len(devices)


class Predictor:
    """A model on this process's devices: normalised images in, maps out.

    The batch is split over the devices, the parameters are on each of them. One program is compiled
    for each shape. Processes do not wait for each other.

    Args:
      model: as `models.build` gives it.
      params: its parameters.
      devices: None takes this process's.
      output: what comes out: `disparity`, whatever the head; or `raw_output`.
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
    """The forward pass as a program; one for all predictors of a model, so that an evaluation in
    the middle of training compiles once and not every time."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        return output(model, params, images)

    return device_program("inference.predict", run, mesh, out_shardings=batch_sharding(mesh))


class Input(NamedTuple):
    """An image ready for the network.

    Attributes:
      tag: whatever comes back with the prediction.
      image: normalised (h, w, 3) float32.
    """

    tag: Any
    image: np.ndarray


class Output(NamedTuple):
    """A prediction: the tag of its input, and the map (h, w) that was asked for."""

    tag: Any
    map: np.ndarray


class Stats:
    """What `predict_all` did.

    Attributes:
      shapes: (batch, height, width) that the network ran at: one program each.
      images: predicted.
      padding: images computed only to fill batches.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begins anew."""
        self.shapes: set[tuple[int, int, int]] = set()
        self.images = self.padding = 0


def read_ahead(
    read: Callable[[Any], Any], indices: Iterable[Any], *, threads: int
) -> Iterator[tuple[Any, Any]]:
    """(index, what `read` gave, or the exception it raised), in order, read in threads."""

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
    """Predictions for all inputs, in the order in which batches of one shape fill up.

    An incomplete batch repeats its last image, whose further copies are dropped: one program for
    each shape, and no label depends on who its neighbours are.

    Args:
      predict: see Predict; called with exactly `batch_size` images of one shape.
      inputs: consumed lazily.
      batch_size: images at a time.
      stats: counts of this and earlier calls.
      max_waiting: images held back until others of their shape come; beyond it the largest
        incomplete batch runs.

    Raises:
      RuntimeError: the network failed; the message has the batch's shape.
    """
    stats = Stats() if stats is None else stats
    waiting: dict[tuple[int, ...], list[Input]] = collections.defaultdict(list)
    held = 0
    flying: collections.deque[tuple[list[Input], Any]] = collections.deque()

    def start(shape: tuple[int, ...]) -> None:
        nonlocal held
        group = waiting.pop(shape)
        held -= len(group)
        padding = batch_size - len(group)
        images = np.stack([x.image for x in group] + [group[-1].image] * padding)
        stats.shapes.add((batch_size, shape[0], shape[1]))
        stats.images += len(group)
        stats.padding += padding
        flying.append((group, _explained(lambda: predict(images), images.shape)))

    def land() -> Iterator[Output]:
        group, out = flying.popleft()
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
        while len(flying) > IN_FLIGHT:
            yield from land()
    for shape in sorted(waiting):
        start(shape)
        while len(flying) > IN_FLIGHT:
            yield from land()
    while flying:
        yield from land()


def _explained(call: Callable[[], Any], shape: tuple[int, ...]) -> Any:
    try:
        return call()
    except RuntimeError as error:  # XlaRuntimeError: mostly memory
        raise RuntimeError(
            f"the network failed on a batch of {shape[0]} images of {shape[1]}x{shape[2]}: "
            f"{error}. A smaller batch needs less memory; so do long thin images at fewer pixels"
        ) from error
