"""What can be scored: baselines, files of other tools, networks."""

import json

import cv2
import numpy as np
import pytest

from depth_anything_jax import models
from depth_anything_jax.checkpoints import export, pretrained
from depth_anything_jax.data import transforms
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.protocols import table
from depth_anything_jax.evaluation.runner import loop, prediction_files, predictors
from depth_anything_jax.inference import depth as api_depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE
from tests import parity

TINY = models.Variant(64, 6, 2, 256, 16, (8, 16, 24, 32), (1, 2, 4, 5), grid=4)


def record(key="a/1.jpg", hw=(30, 44)):
    rng = np.random.default_rng(len(key))
    depth = rng.uniform(1, 9, hw).astype(np.float32)
    valid = rng.random(hw) < 0.7
    image = cv2.resize(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8), hw[::-1])
    return {"key": key, "image": image, "depth": np.where(valid, depth, 0), "valid": valid}


def maps(candidate, records):
    """{index: map} of what there is a prediction for."""
    if candidate.lookup is None:
        views = ((i, candidate.prepare(r["image"], 56)) for i, r in enumerate(records))
        return dict(candidate.predict(views))
    plain = protocols.get("marigold", candidate.kind)
    found = {i: candidate.lookup(r, plain) for i, r in enumerate(records)}
    return {i: x for i, x in found.items() if x is not None}


@pytest.mark.parametrize("kind", predictors.KINDS)
def test_baselines(kind):
    r = record()
    expected = 1 / r["depth"][r["valid"]] if kind == "disparity-affine" else r["depth"][r["valid"]]
    found = {n: maps(predictors.make(f"baseline:{n}", kind=kind), [r])[0] for n in ("gt", "mean")}
    mask = r["valid"]
    np.testing.assert_allclose(found["gt"][mask], expected, rtol=1e-6)  # labels are float32
    mean = expected.mean(dtype=np.float64)
    np.testing.assert_allclose(found["mean"][mask], mean, rtol=1e-6)
    assert not maps(predictors.make("baseline:zero", kind=kind), [r])[0][mask].any()
    # disparity without metres is no depth
    relative = {"key": "b", "valid": mask, "disparity": np.where(mask, 0.5, 0)}
    if kind == "disparity-affine":
        found = maps(predictors.make("baseline:gt", kind=kind), [relative])[0]
        assert (found[mask] == 0.5).all()
    else:
        with pytest.raises(ValueError, match="b: a label of disparity gives no depth"):
            maps(predictors.make("baseline:gt", kind=kind), [relative])


def test_files_of_other_tools_are_found_by_path_and_stem(tmp_path):
    keys = [f"a/{i}.jpg" for i in range(5)]
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a/0.npy", values[None])
    np.savez(tmp_path / "a/1.npz", depth=values)
    (tmp_path / "a/2.png").write_bytes(formats.encode_png(values.astype(np.uint16)))
    (tmp_path / "a/3.pfm").write_bytes(formats.encode_pfm(values))
    (tmp_path / "a/4.npy").write_bytes((tmp_path / "a/0.npy").read_bytes())
    made = predictors.make(f"predictions:{tmp_path}", kind="depth-affine", keys=keys)
    assert made.kind == "depth-affine"
    found = maps(made, [record(k, (30, 40)) for k in keys])
    assert sorted(found) == [0, 1, 2, 3, 4]
    with pytest.raises(formats.FormatError, match="its prediction 3x4: not the same view"):
        maps(made, [record(keys[0], (40, 30))])
    for x in found.values():
        np.testing.assert_array_equal(x, values)


@pytest.mark.parametrize("channel", ["Z", "Y", "R", "RGB"])
def test_exr_files(channel, tmp_path):
    OpenEXR = pytest.importorskip("OpenEXR", reason="needs OpenEXR (extra [eval])")
    values = np.random.default_rng(0).random((3, 4), np.float32)
    pixels = np.stack([values, values + 1, values + 2], -1) if channel == "RGB" else values
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {channel: pixels}).write(str(tmp_path / "a.exr"))
    np.testing.assert_array_equal(prediction_files.read(tmp_path / "a.exr", "metric"), values)
    OpenEXR.File(header, {"A": values}).write(str(tmp_path / "b.exr"))
    with pytest.raises(formats.FormatError, match="no channel Z, Y or R, but A"):
        prediction_files.read(tmp_path / "b.exr", "metric")
    (tmp_path / "c.exr").write_bytes(b"nothing of the kind")
    with pytest.raises(formats.FormatError, match="c.exr: not an EXR file"):
        prediction_files.read(tmp_path / "c.exr", "metric")


@pytest.mark.parametrize("suffix", [".png", ".npz"])
@pytest.mark.parametrize("kind", ["metric", "disparity-affine"])
def test_files_of_the_predict_program_come_back_in_their_unit(kind, suffix, tmp_path):
    values = np.linspace(1, 9, 12, dtype=np.float32).reshape(3, 4)
    said = METRIC if kind == "metric" else RELATIVE
    path = tmp_path / f"a{suffix}"
    api_depth.Depth(values, said).save(path, invert=kind != "metric")
    made = predictors.make(f"predictions:{tmp_path}", kind=kind, keys=["a.jpg"])
    (found,) = maps(made, [record("a.jpg", (30, 40))]).values()
    # A metric PNG counts millimetres, a relative one 65,535 steps.
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=6e-4 if suffix == ".png" else 0)
    other = "disparity-affine" if kind == "metric" else "depth-scale"
    with pytest.raises(formats.FormatError, match=f"a{suffix} holds .*: score it as kind {kind}"):
        prediction_files.read(path, other)


def test_a_png_of_another_tool_has_no_metres(tmp_path):
    (tmp_path / "a.png").write_bytes(formats.encode_png(np.full((3, 4), 1500, np.uint16)))
    with pytest.raises(formats.FormatError, match="does not say its unit; .* depth-scale"):
        prediction_files.read(tmp_path / "a.png", "metric")
    assert (prediction_files.read(tmp_path / "a.png", "depth-scale") == 1500).all()


def test_files_that_do_not_match_are_all_listed(tmp_path):
    for name in ("a.npy", "stray.npy"):
        np.save(tmp_path / name, np.ones((2, 2)))
    make = predictors.make
    source, keys = f"predictions:{tmp_path}", ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match="give kind"):
        make(source, keys=["a.png", "stray.png"])
    for kind in None, "metric":
        with pytest.raises(ValueError) as error:
            make(source, kind=kind, keys=keys)
        told = "2 of 3 images have no file: b.png, c.png; 1 files belong to no image"
        assert told in str(error.value)
    with pytest.raises(ValueError, match="belong to no image: .*stray.npy"):
        make(source, kind="metric", keys=keys, allow_missing_files=True)
    (tmp_path / "stray.npy").unlink()
    some = make(source, kind="metric", keys=keys, allow_missing_files=True)
    assert list(maps(some, [record(k, (30, 30)) for k in keys])) == [0]
    np.savez(tmp_path / "a.npz", np.ones((2, 2)))
    with pytest.raises(ValueError, match="belong to the same image"):
        make(source, kind="metric", keys=keys)
    with pytest.raises(FileNotFoundError, match="no folder"):
        make(f"predictions:{tmp_path}/no", kind="metric", keys=keys)


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="baselines are zero, mean, gt"):
        predictors.make("baseline:best")
    with pytest.raises(ValueError, match="kind='depth': one of disparity-affine"):
        predictors.make("baseline:gt", kind="depth")


@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_our_weights_and_transformers_predict_the_same(max_depth, tmp_path, monkeypatch):
    """At the network's own size, where no image and no position is resized: the ways differ."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.helpers import reference_model

    monkeypatch.setitem(models.VARIANTS, "tiny", TINY)
    r = record(hw=(56, 56))
    image = transforms.network_input(r["image"], 56)[None]
    theirs = reference_model.random_model(TINY, image, max_depth=max_depth)
    theirs.save_pretrained(tmp_path)
    found = pretrained.load(str(tmp_path), version="v2", max_depth=max_depth)
    # A metric network asks for the input that its metres were learned at: 518, said or not.
    processor = export.hf_preprocessor(found) | {"size": {"height": 56, "width": 56}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    ours = predictors.make(str(tmp_path))
    other = predictors.make(f"transformers:{tmp_path}")
    assert ours.kind == other.kind == ("disparity-affine" if max_depth is None else "metric")
    a, b = (maps(x, [r])[0] for x in (ours, other))
    assert a.shape == b.shape == (56, 56)
    if max_depth:
        b = np.maximum(b, 1e-3)  # ours passes through 1 / depth, which is bounded
    # Rounding of two libraries, which also normalise the picture in another order.
    assert parity.relative_error(a, b) < parity.OUTPUT_FLOAT32["vitl"]


def test_what_transformers_models_predict_is_known_by_their_type(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.GLPNConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8
    )
    transformers.GLPNForDepthEstimation(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "GLPNImageProcessor", "size_divisor": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    made = predictors.make(f"transformers:{tmp_path}")
    assert made.kind == "metric" and maps(made, [record(hw=(64, 96))])[0].shape == (64, 96)
    with pytest.raises(FileNotFoundError, match="download the model's folder"):
        predictors.make(f"transformers:{tmp_path}/no")


def test_zoedepths_padding_is_taken_off(tmp_path):
    """Its processor reflects pixels around the image; the map is that of the image alone."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    backbone = transformers.BeitConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=1, intermediate_size=8,
        image_size=32, patch_size=16, use_relative_position_bias=True, add_fpn=False,
        use_absolute_position_embeddings=False, out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[4] * 4, fusion_hidden_size=4,
        bottleneck_features=4, num_relative_features=4, bin_embedding_dim=4,
        bin_configurations=[{"n_bins": 4, "min_depth": 1e-3, "max_depth": 10.0, "name": "nyu"}],
    )  # fmt: skip
    transformers.ZoeDepthForDepthEstimation(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "ZoeDepthImageProcessor", "do_pad": True}
    processor["size"] = {"height": 64, "width": 96}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    made = predictors.make(f"transformers:{tmp_path}")
    assert made.kind == "metric"
    found = maps(made, [record(hw=(60, 90))])[0]
    assert found.shape == (60, 90) and ((found > 0) & (found < 10)).all()
    # int(√(60 / 2) · 3) = 16 rows and int(√(90 / 2) · 3) = 20 columns at either end, by torch
    raw = np.random.default_rng(0).random((64, 96))
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(raw)[None, None], (60 + 2 * 16, 90 + 2 * 20), mode="bicubic"
    )
    expected = whole[0, 0, 16:-16, 20:-20].numpy()
    found = predictors._without_padding(raw, (60, 90))
    np.testing.assert_allclose(found, expected, atol=1e-12)  # both in float64


def test_depth_pro_is_brought_to_metres_by_its_processor(tmp_path, monkeypatch):
    """Its network says inverse depth and a field of view. The processor needs torchvision, which is
    not here, and is a stand-in."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    part = {
        "model_type": "dinov2", "image_size": 32, "patch_size": 8, "hidden_size": 8,
        "num_hidden_layers": 4, "num_attention_heads": 1, "intermediate_size": 8,
    }  # fmt: skip
    config = transformers.DepthProConfig(
        fusion_hidden_size=8, patch_size=32, intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[4, 4], scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25], scaled_images_feature_dims=[4] * 3,
        use_fov_model=True, image_model_config=part, patch_model_config=part, fov_model_config=part,
    )  # fmt: skip
    transformers.DepthProForDepthEstimation(config).save_pretrained(tmp_path)

    class Processor:
        def __call__(self, images, return_tensors):
            return transformers.BatchFeature({"pixel_values": torch.zeros(1, 3, 128, 128)})

        def post_process_depth_estimation(self, outputs, target_sizes):
            assert outputs.predicted_depth.shape[0] == 1 and outputs.field_of_view.numel() == 1
            return [{"predicted_depth": torch.full(size, 7.0)} for size in target_sizes]

    own = staticmethod(lambda source: Processor())
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", own)
    made = predictors.make(f"transformers:{tmp_path}")
    found = maps(made, [record(hw=(60, 90))])[0]
    assert made.kind == "metric" and found.shape == (60, 90) and (found == 7).all()


def test_a_dpt_model_is_of_the_kind_that_is_asked_for(tmp_path):
    """Its config is the same whether it was trained as MiDaS' or in metres."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=1, intermediate_size=8,
        image_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False,
        neck_hidden_sizes=[4] * 4, fusion_hidden_size=4,
    )  # fmt: skip
    transformers.DPTForDepthEstimation(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "DPTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    made = predictors.make(f"transformers:{tmp_path}")
    assert made.kind == "disparity-affine"
    assert maps(made, [record(hw=(40, 60))])[0].shape == (32, 32)
    assert predictors.make(f"transformers:{tmp_path}", kind="metric").kind == "metric"


def test_a_kind_that_contradicts_the_source_is_refused(monkeypatch):
    found = predictors.Candidate("x", "disparity-affine", predict=iter)
    monkeypatch.setattr(predictors, "_weights", lambda *_: found)
    with pytest.raises(ValueError, match="x predicts disparity-affine; leave kind out"):
        predictors.make("x", kind="metric")


CELLS = [(name, s) for name, entry in table.TABLE.items() for s in entry.sets]


@pytest.mark.parametrize(("name", "part"), CELLS)
def test_the_truth_is_perfect_under_every_protocol_and_set(name, part):
    """Sky, holes and depths beyond the caps, which some protocols clip and others leave out."""
    dataset, _, domain = part.partition("_")
    dataset, domain = ("", dataset) if dataset in ("indoor", "outdoor", "*") else (dataset, domain)
    rng = np.random.default_rng(0)
    switches = protocols.get(name, next(iter(table.TABLE[name].kinds)), dataset, domain)
    hw = (480, 640) if "nyu" in (switches.frame, switches.crop) else (376, 1242)
    far = switches.max_depth if switches.cap_mode == "keep" else 400
    depth = np.exp(rng.uniform(np.log(0.61), np.log(far), hw)).astype(np.float32)
    valid = rng.random(depth.shape) < 0.7
    sky = np.zeros_like(valid)
    sky[:120] = True
    valid &= ~sky
    r = {
        "key": "a.jpg", "image": np.zeros((*depth.shape, 3), np.uint8), "dataset": dataset,
        "domain": domain.replace("*", ""), "depth": np.where(valid, depth, 0), "valid": valid,
        "sky": sky, "scene": "s",
    }  # fmt: skip
    for kind in table.TABLE[name].kinds:
        gt = predictors.make("baseline:gt", kind=kind)
        found = loop.evaluate_candidate(gt, [r], protocol=name)
        assert found.abs_rel < 1e-6 and found.delta1 == 1, (kind, found.abs_rel)  # float32 labels
        for other in ("zero", "mean"):
            worse = predictors.make(f"baseline:{other}", kind=kind)
            scores = loop.evaluate_candidate(worse, [r], protocol=name)
            assert np.isfinite(scores.abs_rel) and scores.abs_rel > 0.1 and scores.delta1 < 0.9


@pytest.mark.parametrize("protocol", ["da", "midas", "golden", "zoe"])
def test_the_label_itself_is_perfect_whoever_brings_it(protocol, tmp_path):
    """As a baseline, and as files of another tool, under protocols that flip and crop."""
    nyu = {"dataset": "nyu", "domain": "indoor"}
    source = [record(f"a/{i}.jpg", (480, 640)) | nyu for i in "12"]
    (tmp_path / "a").mkdir()
    kind = "metric" if protocol == "zoe" else "disparity-affine"
    for r in source:
        depth = np.where(r["valid"], r["depth"], 1)
        np.save((tmp_path / r["key"]).with_suffix(".npy"), depth if kind == "metric" else 3 / depth)
    keys = [r["key"] for r in source]
    files = predictors.make(f"predictions:{tmp_path}", kind=kind, keys=keys)
    for made in (predictors.make("baseline:gt", kind=kind), files):
        found = loop.evaluate_candidate(made, source, protocol=protocol)
        assert found.abs_rel < 1e-5 and found.delta1 == 1  # labels and files are float32
    zero = loop.evaluate_candidate(
        predictors.make("baseline:zero", kind=kind), source, protocol=protocol
    )
    assert zero.abs_rel > 0.1 and zero.delta1 < 0.9


def test_images_without_a_prediction_are_named(tmp_path):
    source = [record(f"{i}.jpg") | {"domain": "indoor"} for i in "12"]
    np.save(tmp_path / "2.npy", 1 / np.where(source[1]["valid"], source[1]["depth"], 1))
    made = predictors.make(
        f"predictions:{tmp_path}", kind="disparity-affine", keys=["1.jpg", "2.jpg"],
        allow_missing_files=True,
    )  # fmt: skip
    found = loop.evaluate_candidate(made, source)
    assert found.skipped == ["1.jpg"] and [s.key for s in found.per_image] == ["2.jpg"]
