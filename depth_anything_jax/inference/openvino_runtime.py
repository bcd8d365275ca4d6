"""Runs a model on a CPU by OpenVINO instead of XLA: the same network and numbers, other kernels."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from depth_anything_jax.checkpoints.bundle import ModelBundle
from depth_anything_jax.inference import openvino_graph
from depth_anything_jax.models.outputs import raw_output
from depth_anything_jax.utils.choices import one_of

RUNTIMES = ("jax", "openvino")
MISSING = (
    "runtime='openvino' needs OpenVINO, which is not installed: pip install "
    "'depth_anything_jax[openvino]', or use runtime='jax'"
)
# float32 all along (some CPUs would otherwise take bfloat16), all cores for one batch
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def check(runtime: str, dtype: str) -> None:
    """Checks a runtime's name, and that it is there and computes in `dtype`.

    Raises:
      ImportError: OpenVINO is not installed.
      ValueError: no name in RUNTIMES, or a compute dtype that OpenVINO is not asked for.
    """
    one_of("runtime", runtime, RUNTIMES)
    if runtime == "jax":
        return
    if dtype not in ("auto", "float32"):
        raise ValueError(f"runtime='openvino' computes in float32, not dtype={dtype!r}")
    if importlib.util.find_spec("openvino") is None:
        raise ImportError(MISSING)


class OpenVinoPredictor:
    """Takes `predictor.Predictor`'s place: normalised images in, the network's output out.

    A model is compiled for each shape, in one to two seconds; nothing is kept on disk.

    Args:
      bundle: built with attention="outlined" and scan=False, which `DepthAnything.from_pretrained`
        does; other networks run too, with slower attention, and a scan cannot be translated.
    """

    def __init__(self, bundle: ModelBundle):
        self._cpu = jax.devices("cpu")[0]
        self._network, self._params = bundle.network, jax.device_put(bundle.params, self._cpu)
        self._core = openvino_graph.load().Core()
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w"]:
        """Maps (b, h, w), computed when this returns.

        Raises:
          RuntimeError: OpenVINO failed.
        """
        if images.shape not in self._compiled:
            self._compiled[images.shape] = self._compile(images.shape)
        (output,) = self._compiled[images.shape](np.asarray(images, np.float32)).values()
        return np.array(output)  # a copy: the next call writes into the same memory

    def _compile(self, shape: tuple[int, ...]) -> Any:
        def run(images: jax.Array) -> jax.Array:
            return raw_output(self._network, self._params, images).astype(jnp.float32)

        with jax.default_device(self._cpu):
            model = openvino_graph.translate(run, shape)
        return self._core.compile_model(model, "CPU", SETTINGS)
