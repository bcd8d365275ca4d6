"""`DepthAnything`: a model with its weights, called on pictures.

Whole pictures at their exact official shape, pictures of one shape in batches over all local
devices. `shapes` decides the network's size, `recipe` what goes around it.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from depth_anything_jax import inference, initial, weights
from depth_anything_jax.api import cache, camera, images, recipe, shapes, tiles
from depth_anything_jax.api.depth import Depth
from depth_anything_jax.data import transforms

DEFAULT = "depth-anything/Depth-Anything-V2-Small-hf"
_THREADS = min(8, os.cpu_count() or 2)


class DepthAnything:
    """A model that says how far away things are in pictures.

    Attributes:
      kind: `recipe.RELATIVE` ("relative inverse depth") or `recipe.METRIC` ("metric depth").
      unit: "m" of a metric model, else None.
      source: what the weights were asked for as.
      variant, version: size ("vits" …) and "v1" or "v2".
      licence: SPDX name of the weights' licence, or None where it is unknown.
      dtype: that the network computes in.
      devices: that it runs on: all of this process.
      cache: folder where compiled programs are kept for the next process, or None.
    """

    def __init__(
        self,
        found: weights.Weights,
        *,
        dtype: str = "auto",
        batch_size: int = 0,
        attention: str = "auto",
        max_tokens: int = shapes.MAX_TOKENS,
    ):
        """Of weights that are loaded already; see `from_pretrained`."""
        self.cache = cache.switch_on()
        self.devices = jax.local_devices()
        if batch_size < 0 or batch_size % len(self.devices):
            fit = max(1, round(batch_size / len(self.devices))) * len(self.devices)
            raise ValueError(
                f"batch_size={batch_size} does not divide over {len(self.devices)} devices; use "
                f"{fit}, or 0 to have it chosen"
            )
        self.dtype = initial.compute_dtype(dtype)
        self.source, self.variant, self.version = found.source, found.variant, found.version
        self.licence = found.licence
        self.recipe = recipe.recipe_of(found)
        self.kind = self.recipe.kind
        self.unit = "m" if self.kind == recipe.METRIC else None
        self._max_tokens = max_tokens
        each = 1 if self.devices[0].platform == "cpu" else 8
        self._batch_size = batch_size or each * len(self.devices)
        self._model = weights.model_of(found, dtype=self.dtype, attention=attention)
        self._params = found.params
        self._predictors: dict[int, inference.Predictor] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] = DEFAULT,
        *,
        dtype: str = "auto",
        batch_size: int = 0,
        attention: str = "auto",
        max_tokens: int = shapes.MAX_TOKENS,
        **load: Any,
    ) -> DepthAnything:
        """A model from the Hugging Face Hub, a file, a folder or a training run.

        Args:
          source: "owner/name" on the Hub, of transformers' layout or the official one; a
            .safetensors or .pth file; a folder of transformers'; a run of this project.
          dtype: "float32", "bfloat16", or "auto": bfloat16 on TPUs and on GPUs that have it.
          batch_size: pictures of one shape that run at a time, a multiple of the devices; 0: eight
            on each GPU or TPU core, one on a CPU.
          attention: as for `models.build`.
          max_tokens: patches (14 x 14 pixels) of one picture beyond which it is refused, because
            memory grows with their square.
          **load: of `weights.load`, for what the weights do not say: version="v1", max_depth=20.0,
            allow_missing=REGEX, fill="zeros".

        Raises:
          FileNotFoundError: nothing there, or no network; the message says what to put where.
          ImportError: a .pth file and no PyTorch.
          ValueError: something about the weights is unknown or contradicts the arguments; an
            encoder alone; a batch size that does not divide over the devices.
        """
        found = weights.load(os.fspath(source), **load)
        return cls(
            found, dtype=dtype, batch_size=batch_size, attention=attention, max_tokens=max_tokens
        )

    def __repr__(self) -> str:
        return (
            f"DepthAnything({self.source!r}: {self.variant} {self.version}, {self.kind}, "
            f"{self.dtype} on {len(self.devices)} {self.devices[0].platform})"
        )

    def __call__(
        self,
        image: Any,
        *,
        input_size: int = transforms.SIZE,
        buckets: int | Sequence[int] = 0,
        tile: int = 0,
    ) -> Any:
        """Depth of a picture, or of each picture of a list.

        Args:
          image: a path, the bytes of a file, a PIL image or an RGB array (see `images.read`); or a
            list, tuple or iterator of those, of any sizes.
          input_size: shorter side at which the network sees a picture; more shows finer detail,
            but far from 518 the large-scale layout suffers.
          buckets: K: the longer side becomes one of K lengths, chosen from a sample of the list, or
            the nearest of these lengths; pictures are stretched, never padded. A folder of free
            shapes then compiles 2 K programs and not hundreds. 0: exact shapes.
          tile: side in pixels of the picture: it is cut into overlapping squares that each run
            at `input_size`, are aligned to the whole picture's map and blended: detail of large
            pictures. 0: none.

        Returns:
          A `Depth` at the picture's size, or a list of them in order.

        Raises:
          TypeError, OSError, ValueError: as `images.read`; a picture too long and thin for
            max_tokens (with what to do); of a list always ValueError, with the picture's number.
          RuntimeError: the network failed, most often for want of memory.
        """
        several = isinstance(image, list | tuple | Iterator)
        pictures = list(image) if several else [image]
        results: list[Any] = [None] * len(pictures)
        found = self.stream(
            pictures, input_size=input_size, buckets=buckets, tile=tile, keep_images=True
        )
        for index, result in found:
            if isinstance(result, Exception):
                if not several:
                    raise result
                name = f" ({pictures[index]})" if isinstance(pictures[index], str) else ""
                raise ValueError(f"picture {index} of the list{name}: {result}") from result
            results[index] = result
        return results if several else results[0]

    def stream(
        self,
        pictures: Iterable[Any],
        *,
        input_size: int = transforms.SIZE,
        buckets: int | Sequence[int] = 0,
        tile: int = 0,
        keep_images: bool = False,
    ) -> Iterator[tuple[int, Depth | Exception]]:
        """(index, Depth) of each picture as it is done, for folders and videos that no memory
        holds: pictures are read ahead in threads, and a few wait for others of their shape.

        In order where all pictures have one shape. A picture that cannot be read or is refused
        gives the exception in its place; nothing else stops.

        Args:
          pictures: consumed lazily; a list or tuple where `buckets` is a number.
          input_size, buckets, tile: as for a call.
          keep_images: results hold their picture too (`Depth.image`), for coloured point clouds.

        Raises:
          ValueError: options that no picture could run with.
          RuntimeError: the network failed.
        """
        if input_size < transforms.PATCH:
            raise ValueError(f"input_size={input_size}: {transforms.PATCH} pixels or more")
        if tile < 0 or 0 < tile < transforms.PATCH:
            raise ValueError(f"tile={tile}: {transforms.PATCH} pixels of the picture or more, or 0")
        lengths = shapes.lengths(pictures, input_size, buckets)
        count = len(pictures) if isinstance(pictures, Sequence) else None

        def read(numbered: tuple[int, Any]) -> tuple[images.Picture, np.ndarray | None]:
            picture = images.read(numbered[1])
            if tile:  # prepared when its turn comes
                return picture, None
            shape = shapes.of_network(
                picture.pixels.shape, input_size, lengths, most=self._max_tokens
            )
            return picture, self.recipe.prepare(picture.pixels, shape)

        def result(picture: images.Picture, output: np.ndarray, keep: bool) -> Depth:
            values = self.recipe.finish(output, picture.pixels.shape[:2])
            return self._depth(picture, values, output.shape, keep)

        failed: list[tuple[int, Exception]] = []
        found = inference.read_ahead(read, enumerate(pictures), threads=_THREADS)
        if tile:
            for (index, _), value in found:
                try:
                    if isinstance(value, Exception):
                        raise value
                    yield index, self._tiled(value[0], tile, input_size, lengths, keep_images)
                except (OSError, TypeError, ValueError) as error:
                    yield index, error
            return

        def inputs() -> Iterator[inference.Input]:
            for (index, _), value in found:
                if isinstance(value, Exception):
                    failed.append((index, value))
                    continue
                picture, prepared = value
                if not keep_images:  # only its shape is needed from here on
                    empty = np.broadcast_to(np.uint8(0), picture.pixels.shape)
                    picture = picture._replace(pixels=empty)
                yield inference.Input((index, picture), prepared)

        for (index, picture), output in self._maps(inputs(), count):
            yield from failed
            failed.clear()
            yield index, result(picture, output, keep_images)
        yield from failed

    def _maps(
        self, inputs: Iterable[inference.Input], count: int | None
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """What the network says of each prepared picture, as batches of one shape fill up.

        One picture runs on one device; more are spread over all of them.
        """
        devices = self.devices[:1] if count == 1 else self.devices
        batch = self._batch_size
        if count is not None:
            batch = min(batch, math.ceil(max(1, count) / len(devices)) * len(devices))
        if len(devices) not in self._predictors:
            self._predictors[len(devices)] = inference.Predictor(
                self._model, self._params, devices=devices, output=inference.as_said
            )
        predict = self._predictors[len(devices)]
        waiting = max(32, 2 * batch)  # of 4 MB each
        outputs = inference.predict_all(predict, inputs, batch_size=batch, max_waiting=waiting)
        for output in outputs:
            yield output.tag, output.disparity

    def _tiled(
        self,
        picture: images.Picture,
        tile: int,
        input_size: int,
        lengths: Sequence[int],
        keep: bool,
    ) -> Depth:
        """The whole picture's map, with the detail of its tiles."""
        pixels = picture.pixels
        size = pixels.shape[:2]
        most = self._max_tokens
        whole_shape = shapes.of_network(size, input_size, lengths, most=most, shrink=True)
        first = [inference.Input(None, self.recipe.prepare(pixels, whole_shape))]
        ((_, output),) = self._maps(first, 1)
        whole = self.recipe.finish(output, size)
        windows = tiles.windows(size, tile)
        if len(windows) == 1:
            return self._depth(picture, whole, whole_shape, keep)
        shape = shapes.of_network(windows[0][2:], input_size, most=most)
        inputs = (inference.Input(w, self.recipe.prepare(pixels[w.slices], shape)) for w in windows)
        maps = (
            (window, self.recipe.finish(output, (window.height, window.width)))
            for window, output in self._maps(inputs, len(windows))
        )
        return self._depth(picture, tiles.blend(whole, maps), whole_shape, keep)

    def _depth(
        self, picture: images.Picture, values: np.ndarray, network: Sequence[int], keep: bool
    ) -> Depth:
        focal, size = picture.focal_35mm, values.shape
        path = pathlib.Path(self.source)
        meta = {
            "model": path.name if path.exists() else self.source,
            "licence": self.licence,
            "network": [int(n) for n in network],
        }
        return Depth(
            depth=values,
            kind=self.kind,
            image=picture.pixels if keep else None,
            intrinsics=None if focal is None else camera.of_35mm(focal, size),
            meta=meta,
        )
