"""The network against stored outputs of the official PyTorch code, real weights and photos.

The stored network input is float16. Rounding a photo so moves single pixels at this model's cliffs
by 5e-3 of the output's range (ours and theirs alike), so the input is made again from the photo by
the official arithmetic, and its rounding must be the stored one to the last bit.
"""

import json

import cv2
import jax
import numpy as np
import pytest

from depth_anything_jax.checkpoints import convert
from depth_anything_jax.models import build
from tests import parity

safetensors_numpy = pytest.importorskip("safetensors.numpy")

SMALLEST = "labelled__nyu_metric3d__rgb__rgb_00000.npz"
OTHERS = (
    "labelled__kitti_metric3d__rgb__0000000005.npz",
    "photos__demo__depth_anything_v1_examples_demo2.npz",
    "photos__demo__depth_anything_v2_examples_demo07.npz",
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def params(shared):
    """The released small model with zeros for its one missing tensor, as the reference ran it."""
    path = shared / "weights" / "depth_anything_v2_vits.partial.fp16.safetensors"
    state = {k: x.astype(np.float32) for k, x in safetensors_numpy.load_file(path).items()}
    state["depth_head.resize_layers.3.weight"] = np.zeros((384, 384, 3, 3), np.float32)
    return convert.from_torch(state)


def official_input(path, size):
    """RGB photo as the official code feeds it: [0, 1], cubic, normalised in float64, float32."""
    photo = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) / 255.0
    photo = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_CUBIC)
    return ((photo - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


@pytest.mark.parametrize(
    "name", [SMALLEST, *(pytest.param(n, marks=pytest.mark.nightly) for n in OTHERS)]
)
def test_official_output(shared, params, name):
    entries = json.loads((shared / "golden" / "outputs.json").read_text())
    (entry,) = (e for e in entries if e["npz"] == name)
    stored = np.load(shared / "golden" / name)
    image = official_input(shared / "data" / entry["image"], tuple(entry["input_hw"]))
    np.testing.assert_array_equal(
        image.astype(np.float16), stored["network_input"].transpose(1, 2, 0)
    )

    model = build("vits", version="v2")
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x, return_features=True))
    depth, features = apply(params, image[None])

    for tokens, tap in (("tokens_first", 0), ("tokens_last", 3)):
        first = np.asarray(features.taps[tap][0, :64])
        assert parity.relative_error(first, stored[tokens]) <= parity.TAPS_FLOAT32
    reference = stored["network_output"]
    assert parity.relative_error(depth[0], reference) <= parity.GOLDEN_MAX
    pearson = np.corrcoef(np.ravel(depth[0]), reference.ravel())[0, 1]
    assert pearson >= parity.GOLDEN_PEARSON


@pytest.mark.nightly
def test_fifty_decoders_start_alive_on_real_tokens(shared, params):
    """Tokens of the released encoder are larger than a fresh LayerNorm's, and far from Gaussian."""
    (path, *_) = sorted((shared / "data" / "photos").rglob("*.jpg"))
    image = official_input(path, (252, 252))
    model = build("vits")
    encode = jax.jit(lambda p, x: model.encoder.apply({"params": p}, x).taps)
    taps = encode(params["encoder"], image[None])

    def zeros(key):
        decoder = model.decoder.init(key, taps, (18, 18))["params"]
        return (model.decoder.apply({"params": decoder}, taps, (18, 18)) == 0).mean()

    shares = jax.jit(lambda keys: jax.lax.map(zeros, keys))(jax.random.split(jax.random.key(0), 50))
    assert shares.max() < 0.01
