"""`DepthAnything`: a model with its weights, called on pictures.

Whole pictures run at their official input size (`input_sizes`), those of one shape in batches over
all local devices; `processing` has the pre- and post-processing.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.checkpoints.bundle import ModelBundle, bundle_of
from depth_anything_jax.inference import (
    camera_intrinsics,
    compilation_cache,
    images,
    input_sizes,
    openvino_runtime,
    predictor,
    processing,
    tiles,
)
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC
from depth_anything_jax.models import int8 as int8_kernels
from depth_anything_jax.models.dtypes import compute_dtype
from depth_anything_jax.models.outputs import raw_output

DEFAULT = "depth-anything/Depth-Anything-V2-Small-hf"
_THREADS = min(8, os.cpu_count() or 2)


class DepthAnything:
    """A model that predicts the depth of pictures.

    Attributes:
      bundle: its network, parameters and their description.
      kind: `depth_files.RELATIVE` ("relative inverse depth") or `depth_files.METRIC` ("metric
        depth").
      unit: "m" of a metric model, else None.
      source: of the weights, as requested.
      variant, version: size ("vits" …) and "v1" or "v2".
      licence: SPDX name of the weights' licence, or None where it is unknown.
      dtype: compute dtype.
      devices: all of this process; with runtime="openvino" the CPU.
      runtime: "jax" or "openvino".
      int8: whether kernels are in memory as 8-bit numbers (`bundle.params` then has them).
      cache: folder of compiled programs, kept for the next process, or None.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        batch_size: int = 0,
        max_tokens: int = input_sizes.MAX_TOKENS,
        runtime: str = "jax",
        int8: bool = False,
    ):
        """Wraps a loaded model; see `from_pretrained`."""
        self.cache = compilation_cache.switch_on()
        self.runtime, self.int8 = runtime, int8
        if int8 and runtime != "jax":
            raise ValueError(f"int8=True is for runtime='jax', not runtime={runtime!r}")
        if int8:
            narrow = int8_kernels.narrow(bundle.params)
            bundle = dataclasses.replace(bundle, params=narrow)
        self.devices = jax.local_devices() if runtime == "jax" else jax.devices("cpu")[:1]
        if batch_size < 0 or batch_size % len(self.devices):
            fit = max(1, round(batch_size / len(self.devices))) * len(self.devices)
            raise ValueError(
                f"batch_size={batch_size} does not divide over {len(self.devices)} devices; use "
                f"{fit}, or 0 to have it chosen"
            )
        self.bundle, self.dtype = bundle, bundle.dtype
        self.source, self.variant, self.version = bundle.source, bundle.variant, bundle.version
        self.licence = bundle.licence
        self.recipe = processing.recipe_of(bundle)
        self.kind = self.recipe.kind
        self.unit = "m" if self.kind == METRIC else None
        self._max_tokens = max_tokens
        self._batch_size = batch_size or predictor.usual_batch(self.devices)
        self._predictors: dict[int, predictor.Predict] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] = DEFAULT,
        *,
        dtype: str = "auto",
        batch_size: int = 0,
        attention: str = "auto",
        max_tokens: int = input_sizes.MAX_TOKENS,
        runtime: str = "jax",
        int8: bool = False,
        **load: Any,
    ) -> DepthAnything:
        """Loads a model from the Hugging Face Hub, a file, a folder or a training run.

        Args:
          source: "owner/name" on the Hub, of transformers' layout or the official one; a
            .safetensors or .pth file; a folder of transformers'; a run of this project.
          dtype: "float32", "bfloat16", or "auto": bfloat16 on TPUs and on GPUs that have it.
          batch_size: pictures of one shape per batch, a multiple of the number of devices; 0: eight
            for each GPU or TPU core, one for each CPU.
          attention: as for `models.build`.
          max_tokens: maximum number of patches of a picture: memory grows with their square.
          runtime: "jax"; or "openvino", in float32 on the CPU, faster there (docs/use.md)
            and the same to 1e-5 of a map's range. It has an attention of its own and keeps no
            compiled programs.
          int8: round kernels to 8 bits, with a scale for each output channel: they take a quarter
            of the memory, and a step no less time. Not with "openvino".
          **load: of `pretrained.load`, where the weights lack metadata: version="v1",
            max_depth=20.0, allow_missing=REGEX, fill="zeros".

        Raises:
          FileNotFoundError: nothing there, or no network; the message says what to put where.
          ImportError: a .pth file, and PyTorch is not installed; a runtime that is not.
          ValueError: a property of the weights is unknown or contradicts the arguments; an
            encoder alone; a batch size that does not divide over the devices.
        """
        openvino_runtime.check(runtime, dtype)
        how: dict[str, Any] = {"dtype": compute_dtype(dtype), "attention": attention}
        if runtime == "openvino":
            how = {"dtype": compute_dtype("float32"), "attention": "outlined", "scan": False}
        bundle = bundle_of(pretrained.load(os.fspath(source), **load), **how)
        return cls(bundle, batch_size=batch_size, max_tokens=max_tokens, runtime=runtime, int8=int8)

    def __repr__(self) -> str:
        return (
            f"DepthAnything({self.source!r}: {self.variant} {self.version}, {self.kind}, "
            f"{self.dtype} on {len(self.devices)} {self.devices[0].platform}"
            f"{', by OpenVINO' if self.runtime == 'openvino' else ''})"
        )

    def __call__(
        self,
        image: Any,
        *,
        input_size: int | None = None,
        buckets: int | Sequence[int] = 0,
        tile: int = 0,
        intrinsics: Any = None,
        fov: float | None = None,
    ) -> Any:
        """Predicts the depth of a picture, or of each picture of a list.

        Args:
          image: a path, the bytes of a file, a PIL image or an RGB array (see `images.read`); or a
            list, tuple or iterator of those, of any sizes.
          input_size: shorter side of the network's input; larger ones give finer detail, but far
            from the trained size the large-scale layout suffers. None: the model's own (518 of the
            released ones). V1's metric models have inputs of one shape and refuse another.
          buckets: K: the longer side becomes one of K lengths, chosen from a sample of the list, or
            the nearest of these lengths; pictures are stretched, never padded. A folder of free
            shapes then compiles 2 K programs and not hundreds. 0: exact shapes.
          tile: cuts the picture into overlapping squares of this side in pixels, which run at
            `input_size`, are aligned to the whole picture's map and blended, for the detail of
            large pictures. 0: no tiles.
          intrinsics: of all pictures: (fx, fy, cx, cy) in pixels, or a 3 x 3 matrix. None: from
            each one's EXIF. Kept in the result, for point clouds; metric models with a canonical
            focal length need them.
          fov: instead of `intrinsics`, the field of view of the longer side in degrees.

        Returns:
          A `Depth` at the picture's size, or a list of them in order.

        Raises:
          TypeError, OSError, ValueError: as `images.read`; a picture too long and thin for
            max_tokens (with what to do); of a list always ValueError, with the picture's number.
          RuntimeError: the network failed, mostly out of memory.
        """
        several = isinstance(image, list | tuple | Iterator)
        pictures = list(image) if several else [image]
        results: list[Any] = [None] * len(pictures)
        found = self.stream(
            pictures,
            input_size=input_size,
            buckets=buckets,
            tile=tile,
            intrinsics=intrinsics,
            fov=fov,
            keep_images=True,
        )
        for index, result in found:
            if isinstance(result, Exception):
                if not several:
                    raise result
                path = isinstance(pictures[index], str | os.PathLike)
                name = f" ({pictures[index]})" if path else ""
                raise ValueError(f"picture {index} of the list{name}: {result}") from result
            results[index] = result
        return results if several else results[0]

    def stream(
        self,
        pictures: Iterable[Any],
        *,
        input_size: int | None = None,
        buckets: int | Sequence[int] = 0,
        tile: int = 0,
        intrinsics: Any = None,
        fov: float | None = None,
        keep_images: bool = False,
    ) -> Iterator[tuple[int, Depth | Exception]]:
        """Yields (index, Depth) of each picture when it is done, in bounded memory: pictures are
        read ahead in threads, and a few wait for others of their shape.

        The order is kept where all pictures have one shape. For a picture that cannot be read or is
        refused, the exception is yielded in place of its Depth; the others go on.

        Args:
          pictures: consumed lazily; a list or tuple where `buckets` is a number.
          input_size, buckets, tile, intrinsics, fov: as for a call.
          keep_images: keeps the picture in the result (`Depth.image`), for coloured point clouds.

        Raises:
          ValueError: options that are invalid for any picture.
          RuntimeError: the network failed.
        """
        patch_size = self.recipe.input.encoder.patch_size
        if input_size is not None and input_size < patch_size:
            raise ValueError(f"input_size={input_size}: {patch_size} pixels or more")
        if tile < 0 or 0 < tile < patch_size:
            raise ValueError(f"tile={tile}: {patch_size} pixels of the picture or more, or 0")
        self.recipe.check_size(input_size, buckets)
        short = input_size or self.recipe.input.short_side
        lengths = input_sizes.lengths(pictures, short, buckets, patch_size=patch_size)
        if intrinsics is not None and fov is not None:
            raise ValueError("intrinsics and fov say the same thing; give one of them")
        fixed = None if intrinsics is None else camera_intrinsics.given(intrinsics)
        count = len(pictures) if isinstance(pictures, Sequence) else None

        def read(numbered: tuple[int, Any]) -> tuple[images.Picture, np.ndarray]:
            picture = images.read(numbered[1])
            if fixed is not None:
                picture = picture._replace(intrinsics=fixed)
            elif fov is not None:
                seen = camera_intrinsics.of_fov(fov, picture.pixels.shape)
                picture = picture._replace(intrinsics=seen)
            self.recipe.check(picture.intrinsics)
            size, most = picture.pixels.shape, self._max_tokens
            # With tiles, which have the detail, the whole picture may be smaller.
            shape = self.recipe.shape(size, input_size, lengths, most=most, shrink=bool(tile))
            return picture, self.recipe.prepare(picture.pixels, shape)

        failed: list[tuple[int, Exception]] = []
        found = predictor.read_ahead(read, enumerate(pictures), threads=_THREADS)
        if tile:
            for (index, _), value in found:
                if not isinstance(value, Exception):
                    value = self._tiled(value[0], value[1], tile, input_size, keep_images)
                yield index, value
            return

        def inputs() -> Iterator[predictor.Input]:
            for (index, _), value in found:
                if isinstance(value, Exception):
                    failed.append((index, value))
                    continue
                picture, prepared = value
                if not keep_images:  # only its shape is needed from here on
                    empty = np.broadcast_to(np.uint8(0), picture.pixels.shape)
                    picture = picture._replace(pixels=empty)
                yield predictor.Input((index, picture), prepared)

        for (index, picture), output in self._maps(inputs(), count):
            yield from failed
            failed.clear()
            values = self.recipe.finish(output, picture.pixels.shape[:2], picture.intrinsics)
            yield index, self._depth(picture, values, output.shape, keep_images)
        yield from failed

    def _maps(
        self, inputs: Iterable[predictor.Input], count: int | None
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields the network's output for each prepared picture, when a batch of its shape is full.

        One picture runs on one device, more on all.
        """
        devices = self.devices[:1] if count == 1 else self.devices
        batch = self._batch_size
        if count is not None:
            batch = min(batch, math.ceil(max(1, count) / len(devices)) * len(devices))
        forward = int8_kernels.raw_output if self.int8 else raw_output
        if len(devices) not in self._predictors:
            self._predictors[len(devices)] = (
                openvino_runtime.OpenVinoPredictor(self.bundle)
                if self.runtime == "openvino"
                else predictor.Predictor(*self.bundle, devices=devices, output=forward)
            )
        predict = self._predictors[len(devices)]
        waiting = max(32, 2 * batch)  # of 4 MB each
        outputs = predictor.predict_all(predict, inputs, batch_size=batch, max_waiting=waiting)
        for output in outputs:
            yield output.tag, output.map

    def _tiled(
        self,
        picture: images.Picture,
        prepared: np.ndarray,
        tile: int,
        input_size: int | None,
        keep: bool,
    ) -> Depth:
        """Predicts a picture from its whole and its tiles."""
        pixels, network = picture.pixels, prepared.shape[:2]
        ((_, output),) = self._maps([predictor.Input(None, prepared)], 1)
        whole = self.recipe.finish(output, pixels.shape[:2], picture.intrinsics)
        windows = tiles.windows(pixels.shape[:2], tile)
        if len(windows) == 1:
            return self._depth(picture, whole, network, keep)
        size = windows[0].height, windows[0].width
        shape = self.recipe.shape(size, input_size, most=self._max_tokens, shrink=True)
        inputs = (predictor.Input(w, self.recipe.prepare(pixels[w.slices], shape)) for w in windows)
        maps = (
            (window, self.recipe.finish(output, size, picture.intrinsics))
            for window, output in self._maps(inputs, len(windows))
        )
        return self._depth(picture, tiles.blend(whole, maps), network, keep)

    def _depth(
        self, picture: images.Picture, values: np.ndarray, network: Sequence[int], keep: bool
    ) -> Depth:
        path = pathlib.Path(self.source)
        meta: dict[str, Any] = {
            "model": path.name if path.exists() else self.source,
            "licence": self.licence,
            "network": [int(n) for n in network],
        }
        if picture.notes:
            meta["notes"] = list(picture.notes)
        most = self.recipe.farthest(picture.intrinsics, values.shape, network)
        if most is not None:
            meta["max_depth"] = most
        return Depth(
            depth=values,
            kind=self.kind,
            image=picture.pixels if keep else None,
            intrinsics=picture.intrinsics,
            meta=meta,
        )
