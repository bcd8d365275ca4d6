"""A bins head in evaluation, pseudo labels and training: its own input is taken, or refused."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import depth_anything_jax
from depth_anything_jax import evaluate, pseudo_label
from depth_anything_jax.checkpoints import export
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.data.pseudo_labels.label_store import LabelStore
from depth_anything_jax.evaluation.runner import loop, predictors
from depth_anything_jax.models import VARIANTS, Variant, build
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import init
from depth_anything_jax.utils import interpolation
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers.demo_configs import small_student
from tests.helpers.small_networks import FAST_TO_COMPILE

TINY = Variant(16, 4, 1, 32, 8, (8, 8, 8, 8), (0, 1, 2, 3), grid=2)
INPUT = transforms.InputTransform((28, 42), False, "bilinear-corners", DINOV2)


class Photos:
    """Upright and square pictures with depth."""

    name = "photos"

    def __len__(self):
        return 2

    def key(self, index):
        return f"{index}.png"

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        hw = ((120, 80), (100, 100))[index]  # beyond the corner that `zoe` cuts off
        image = cv2.resize(rng.integers(0, 255, (5, 4, 3), dtype=np.uint8), hw[::-1])
        depth = rng.uniform(1, 9, hw).astype(np.float32)
        return {
            "key": self.key(index), "image": image, "depth": depth, "valid": depth > 0,
            "dataset": "sunrgbd", "domain": "indoor",
        }  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build(TINY, version="v1", head="bins", max_depth=10.0)


@pytest.fixture(scope="module")
def found(model):
    """Random weights whose metres depend on where one looks."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]

    def draw(x):
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        return (rng.standard_normal(x.shape) * (2 / fan_in) ** 0.5).astype(np.float32)

    params = jax.tree.map(draw, shapes)
    return Weights(
        params=params, variant="tiny", version="v1", head="bins", max_depth=10.0, licence=None,
        source="run", parts="all", metadata={}, input=INPUT, bin_centres="softplus",
    )  # fmt: skip


@pytest.fixture
def path(tmp_path, found, monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    return str(export.export(found, str(tmp_path / "x.safetensors"), layout="official"))


@pytest.fixture(scope="module")
def metres(model, found):
    """What the network says of an image that its own transform prepared."""
    run = jax.jit(model.apply, compiler_options=FAST_TO_COMPILE)
    return lambda image: np.asarray(run({"params": found.params}, jnp.asarray(INPUT(image)[None])))[
        0
    ]


def test_a_candidate_sees_every_image_through_its_transform(path, metres):
    candidate = predictors.make(path, batch_size=8)
    assert candidate.kind == "metric"
    source = Photos()
    pairs = ((i, candidate.prepare(source[i]["image"], 518)) for i in range(2))
    for i, ours in candidate.predict(pairs):
        expected = metres(source[i]["image"])
        assert ours.shape == expected.shape == (28, 42) and np.ptp(expected) > 0.3
        np.testing.assert_allclose(ours, expected, rtol=1e-4)  # float32
    with pytest.raises(ValueError, match=r"size=56: every input of .* has one shape"):
        loop.evaluate_candidate(candidate, source, switches={"input_size": 56})


@pytest.mark.parametrize("protocol", ["zoe", "da"])
def test_scores_are_those_of_its_maps_as_files(path, metres, tmp_path, protocol):
    """Mirrored under `zoe`, aligned under `da`: as if another tool had written the maps."""
    source = Photos()
    (ours,), _ = next(
        evaluate.evaluate(path, [("photos", source)], protocol=protocol, batch_size=8)
    )
    for record in source[0], source[1]:
        image = record["image"]
        depth = metres(image)
        if protocol == "zoe":
            flipped = metres(np.ascontiguousarray(image[:, ::-1]))
            depth = (depth + flipped[:, ::-1]) / 2
        whole = interpolation.resize(depth, image.shape[:2], "bilinear-corners")
        np.save(tmp_path / record["key"].replace("png", "npy"), whole.astype(np.float32))
    (files,), _ = next(
        evaluate.evaluate(
            f"predictions:{tmp_path}", [("photos", source)], protocol=protocol, kind="metric"
        )
    )
    assert ours["kind"] == "metric" and ours["images"] == 2
    for name in ("abs_rel", "delta1"):
        assert ours[name] == pytest.approx(files[name], rel=1e-4)


def test_pseudo_labels_get_the_aspect_ratio_back(path, metres, tmp_path):
    source, out = Photos(), tmp_path / "labels"
    pseudo_label.label(
        path, source, str(out), dtype="float32", batch_size=8, tell=lambda text: None
    )
    store = LabelStore(out)
    for i in range(2):
        image = source[i]["image"]
        label = store.read(i, source.key(i))
        shape = transforms.network_size(*image.shape[:2], 28, patch_size=14)
        assert label.values.shape == shape == ((42, 28), (28, 28))[i]
        expected = interpolation.resize(1 / metres(image), shape, "bilinear-corners")
        # 16 bits of the label's range, and float32
        np.testing.assert_allclose(label.values, expected, atol=1e-4 * np.ptp(expected))
    card = json.loads((out / "card.json").read_text())
    assert card["identity"]["input"]["transform"] == INPUT.as_json()
    assert card["identity"]["shift_known"] is True
    with pytest.raises(ValueError, match="size=56: every input of this network is 28x42"):
        pseudo_label.label(path, source, str(tmp_path / "b"), dtype="bfloat16", size=56)
    with pytest.raises(ValueError, match="buckets=3: this teacher's input is .*; use 0"):
        pseudo_label.label(path, source, str(tmp_path / "b"), dtype="float32", buckets=3)


@pytest.mark.nightly
def test_depth_of_a_picture(path, metres, monkeypatch):
    monkeypatch.setenv("DEPTH_ANYTHING_CACHE", "")
    depth = depth_anything_jax.DepthAnything.from_pretrained(path)(Photos()[0]["image"])
    expected = interpolation.resize(metres(Photos()[0]["image"]), (120, 80), "bilinear-corners")
    np.testing.assert_allclose(depth.depth, expected, rtol=1e-4)  # float32
    assert (depth.unit, depth.meta["network"]) == ("m", [28, 42])


def test_no_online_teacher(path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"sees whole images, .* use teacher='records'"):
        init.networks(small_student(teacher="online", teacher_from=path), mesh)
