"""The OpenVINO runtime: every head's numbers as JAX computes them, and clear errors."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints.bundle import bundle_of
from depth_anything_jax.inference import openvino_graph, openvino_runtime
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.inference.predictor import Predictor
from depth_anything_jax.models import build
from depth_anything_jax.models.outputs import raw_output
from tests.helpers import api_models

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed: extra [openvino]", allow_module_level=True)

# Of the range. float32 sums in another order, and an exponential of its own in the softmax: 1e-6 to
# 6e-6 of networks at 518 x 518.
ROUNDING = 2e-5


def close(ours, theirs):
    assert ours.shape == theirs.shape and np.ptp(theirs) > 0.1 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDING * np.ptp(theirs))


@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_a_batch_is_as_jax_computes_it(max_depth):
    weights = api_models.found(max_depth=max_depth)
    images = np.random.default_rng(0).normal(size=(2, 56, 84, 3)).astype(np.float32)
    predict = openvino_runtime.OpenVinoPredictor(
        bundle_of(weights, attention="outlined", scan=False)
    )
    first = predict(images)
    plain = Predictor(*bundle_of(weights), devices=jax.devices()[:1], output=raw_output)
    close(first, np.asarray(plain(images)))
    kept = first.copy()
    predict(images[::-1])
    np.testing.assert_array_equal(first, kept)  # not a view of memory that is used again


@pytest.mark.nightly
@pytest.mark.parametrize(
    "network",
    [
        {"variant": "vits"},
        {"variant": "vits", "version": "v1", "head": "sigmoid", "max_depth": 80.0},
        {"variant": "vits", "version": "v1", "head": "bins", "max_depth": 10.0,
         "bin_centres": "softplus"},
        {"variant": "vits", "version": "v1", "head": "bins", "max_depth": 10.0,
         "bin_centres": "normed"},
    ],
)  # fmt: skip
def test_every_head_at_full_size(network):
    model = build(**network, attention="outlined", scan=False)
    images = np.random.default_rng(0).normal(size=(1, 392, 518, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.02, p.shape).astype(np.float32), params)

    def run(images):
        return raw_output(model, params, images)

    translated = openvino_graph.translate(run, images.shape)
    compiled = (
        openvino_graph.load().Core().compile_model(translated, "CPU", openvino_runtime.SETTINGS)
    )
    ours, theirs = compiled(images)[0], np.asarray(jax.jit(run)(images))
    if network.get("head") == "bins":  # the logarithm of a clipped probability over a temperature
        # multiplies rounding: 2e-4 of the range at .4 % of the pixels, of these random weights
        apart = np.abs(ours - theirs) / np.ptp(theirs)
        assert np.quantile(apart, 0.99) < ROUNDING and apart.max() < 1e-3
    else:
        close(ours, theirs)


def test_attention_becomes_one_operator():
    model, params = bundle_of(api_models.found(), attention="outlined", scan=False)
    params = jax.tree.map(jnp.asarray, params)
    translated = openvino_graph.translate(lambda x: raw_output(model, params, x), (1, 28, 28, 3))
    kinds = [x.get_type_name() for x in translated.get_ops()]
    assert kinds.count("ScaledDotProductAttention") == 4  # blocks of the demo's encoder
    assert "Softmax" not in kinds and "ReduceMax" not in kinds


def test_nothing_is_sent_when_openvino_is_imported():
    """Its telemetry starts with `import openvino`, in a process that it forks."""
    code = (
        "import os, sys, time\n"
        "def fork(): print('forked', flush=True); os._exit(1)\n"
        "os.fork = fork\n"
        "from depth_anything_jax.inference import openvino_graph\n"
        "openvino_graph.load().Core(); time.sleep(1)\n"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry')]\n"
        "assert openvino_graph.load() is sys.modules['openvino']; print('done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stdout + run.stderr


def test_an_unknown_operation_is_named():
    with pytest.raises(NotImplementedError, match="'tan' is not translated; use runtime='jax'"):
        openvino_graph.translate(jnp.tan, (3,))


def test_what_no_network_does_is_refused_instead_of_wrong():
    with pytest.raises(NotImplementedError, match="gather"):
        openvino_graph.translate(lambda x: x[jnp.array([0, 1]), jnp.array([1, 0])], (3, 3))
    grouped = jnp.ones((1, 1, 1, 2))

    def convolve(x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, grouped, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=2
        )

    with pytest.raises(NotImplementedError, match="convolution"):
        openvino_graph.translate(convolve, (1, 3, 3, 2))


def test_a_picture_through_the_class_people_call(monkeypatch):
    monkeypatch.setattr(
        "depth_anything_jax.checkpoints.pretrained.load", lambda source: api_models.found()
    )
    photo = api_models.photo()
    plain, other = (
        DepthAnything.from_pretrained("x", runtime=r)(photo, input_size=56)
        for r in openvino_runtime.RUNTIMES
    )
    close(other.depth, plain.depth)
    assert repr(DepthAnything.from_pretrained("x", runtime="openvino")).endswith("by OpenVINO)")


def test_what_openvino_does_not_do_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="float32, not dtype='bfloat16'"):
        DepthAnything.from_pretrained("x", runtime="openvino", dtype="bfloat16")
    with pytest.raises(ValueError, match="runtime.*'onnx'.*openvino"):
        DepthAnything.from_pretrained("x", runtime="onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"depth_anything_jax\[openvino\]"):
        DepthAnything.from_pretrained("x", runtime="openvino")
