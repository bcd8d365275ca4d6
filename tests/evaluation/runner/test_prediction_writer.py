"""Saved predictions have the scores that they had when they were made."""

import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.report import session
from depth_anything_jax.evaluation.runner import loop, predictors, process_share
from depth_anything_jax.evaluation.runner.prediction_writer import PredictionWriter
from depth_anything_jax.evaluation.scores import pairs


def record(key, hw):
    rng = np.random.default_rng(len(key))
    depth = rng.uniform(1, 9, hw).astype(np.float32)
    image = rng.integers(0, 255, (*hw, 3), dtype=np.uint8)
    about = {"dataset": "kitti", "domain": "outdoor", "sequence": "s"}
    return {"key": key, "image": image, "depth": depth, "valid": depth < 8} | about


def predict(images):
    return images[..., 0] / 10 + 3 + np.linspace(0, 1, images.shape[2], dtype=np.float32)


@pytest.mark.parametrize(
    ("protocol", "kind", "hw", "equal"),
    [
        ("golden", "disparity-affine", (60, 90), True),
        ("golden", "disparity-affine", (60, 80), False),  # 28x42: not the image's aspect ratio
        ("marigold", "depth-affine", (360, 1220), False),  # a frame
        ("zoe", "metric", (360, 1220), False),  # a frame, and the mirror image
        ("vda", "disparity-affine", (400, 800), False),  # a frame, and a sequence as a whole
    ],
)
def test_saved_maps_give_the_same_scores(tmp_path, protocol, kind, hw, equal):
    records = [record(k, hw) for k in ("a/1.jpg", "a/22.jpg")]
    switches = protocols.get(protocol, kind, "kitti", "outdoor", input_size=28)
    network = predictors.of_network(predict, kind=kind)
    keys = [r["key"] for r in records]
    keep = PredictionWriter(tmp_path, kind, keys)

    def scores(candidate, keep=None):
        how = {"views": (kind,), "protocol": switches, "keep": keep}
        return loop.evaluate_views(candidate, records, **how)[kind].per_image

    first = scores(network, keep)
    said = None if kind != "depth-affine" else kind
    again = scores(predictors.make(f"predictions:{tmp_path}", kind=said, keys=keys))
    if equal:
        assert first == again
    else:  # a map on the whole label is rounded to float32
        for a, b in zip(first, again, strict=True):
            assert a.abs_rel == pytest.approx(b.abs_rel, rel=1e-6) and a.n == b.n
    with pytest.raises(ValueError, match="is not empty; choose another"):
        session.folder_of_all(None, process_share.ALL, saved=str(tmp_path))
    with pytest.raises(ValueError, match="gs://b/maps: give a local or mounted folder"):
        session.folder_of_all(None, process_share.ALL, saved="gs://b/maps", resume=True)
    for more in ({"saved": str(tmp_path), "resume": True}, {"saved": str(tmp_path / "new")}):
        assert session.folder_of_all(None, process_share.ALL, **more) is None


def test_maps_for_pairs_of_points_have_the_images_size(tmp_path):
    keep = PredictionWriter(tmp_path, "depth-scale", ["a.jpg"])
    keep.write(record("a.jpg", (30, 41)), np.ones((28, 42)), pairs.Rules())
    assert np.load(tmp_path / "a.depth.npy").shape == (30, 41)


def test_keys_that_have_no_place_are_refused(tmp_path):
    for keys, said in [
        (["a.jpg", "a.jpg"], "several sets have an image a.jpg"),
        (["../a.jpg"], "../a.jpg would lie outside of"),
        (["/a.jpg"], "/a.jpg would lie outside of"),
    ]:
        with pytest.raises(ValueError, match=said):
            PredictionWriter(tmp_path, "metric", keys)
