"""Prediction files: what the predict program wrote is found and scored in every format."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.cli import outputs
from depth_anything_jax.evaluation.report import tables
from depth_anything_jax.evaluation.runner import loop, prediction_folder, predictors
from depth_anything_jax.inference.depth import Depth
from depth_anything_jax.inference.depth_files import METRIC, RELATIVE

NAN = float("nan")
# How far a map may lie from the truth after a format: 16 bits have 65,535 steps, or millimetres.
ROUNDING = {"png16": 1e-3, "color": 0.02}


def record(key="a/1.jpg", hw=(30, 44)):
    rng = np.random.default_rng(len(key))
    depth = np.round(rng.uniform(1, 9, hw), 3).astype(np.float32)
    valid = rng.random(hw) < 0.7
    image = rng.integers(0, 255, (*hw, 3), dtype=np.uint8)
    return {
        "key": key, "image": image, "depth": np.where(valid, depth, 1), "valid": valid,
        "domain": "indoor",
    }  # fmt: skip


def predicted(folder, records, kind, **style):
    """The truth as the predict program writes it, with the settings that it leaves there."""
    style = outputs.Style(**style)
    stems = prediction_folder.stems([r["key"] for r in records])
    for r in records:
        values = 3 / r["depth"] + 1 if kind == RELATIVE else r["depth"]
        depth = Depth(values.astype(np.float32), kind, image=r["image"])
        outputs.write(depth, folder, pathlib.PurePath(stems[r["key"]]), style)
    settings = {"formats": style.formats, "invert": style.invert}
    (folder / "predict.json").write_text(json.dumps(settings))


def scored(folder, records, **options):
    made = predictors.make(f"predictions:{folder}", keys=[r["key"] for r in records], **options)
    return made, loop.evaluate_candidate(made, records, protocol=options.get("protocol", "golden"))


@pytest.mark.parametrize("formats", [*"png16 npy npz pfm exr".split(), "png16,color,side-by-side"])
@pytest.mark.parametrize("kind", [RELATIVE, METRIC])
def test_what_predict_wrote_is_scored(tmp_path, kind, formats):
    if formats == "exr":
        pytest.importorskip("OpenEXR", reason="needs OpenEXR (extra [eval])")
    records = [record("a/1.jpg"), record("b.c.png")]
    predicted(tmp_path, records, kind, formats=tuple(formats.split(",")), invert=True)
    ours = "disparity-affine" if kind == RELATIVE else "metric"
    silent = formats in ("npy", "pfm")
    if silent:
        with pytest.raises(ValueError, match="files do not state their kind"):
            scored(tmp_path, records)
    made, found = scored(tmp_path, records, kind=ours if silent else None)
    assert made.kind == ours and len(found.per_image) == 2
    assert found.abs_rel < ROUNDING.get(formats.partition(",")[0], 1e-6) and found.delta1 == 1


@pytest.mark.parametrize("allowed", [False, True])
def test_files_that_are_missing_are_named_before_their_kind(tmp_path, allowed):
    np.save(tmp_path / "other.npy", np.ones((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"2 of 2 images have no file: a, b; 1 files belong to no"):
        prediction_folder.find(f"predictions:{tmp_path}", ["a", "b"], allow_missing=allowed)


def test_of_several_formats_the_most_exact_is_read(tmp_path):
    records = [record()]
    predicted(tmp_path, records, RELATIVE, formats=("png16", "npz", "color"))
    (tmp_path / "a/1.depth.png").write_bytes(b"not needed")
    _, found = scored(tmp_path, records)
    assert found.abs_rel < 1e-6
    np.save(tmp_path / "a/1.npy", records[0]["depth"])  # of another tool: which is meant?
    with pytest.raises(ValueError, match="belong to the same image"):
        scored(tmp_path, records)


@pytest.mark.parametrize("invert", [False, True])
def test_a_grey_picture_is_scored_and_its_ties_are_noted(tmp_path, invert):
    records = [record()]
    style = {"formats": ("color",), "colormap": "grey", "invert": invert}
    predicted(tmp_path, records, RELATIVE, **style)
    _, found = scored(tmp_path, records, kind="disparity-affine")
    (image,) = found.per_image
    assert 0 < image.abs_rel < ROUNDING["color"] and image.scale > 0
    assert 100 < image.levels <= 256
    (row,) = tables.rows([image], {}, reader="x", split=1, how="image")
    assert (
        f"at most {image.levels} values, so that most pixels are tied: 1 images" in row["notes"][0]
    )
    with pytest.raises(ValueError, match="PNG of another tool does not say its unit"):
        scored(tmp_path, records, kind="metric")


def test_a_picture_in_colours_is_no_map(tmp_path):
    records = [record()]
    predicted(tmp_path, records, RELATIVE, formats=("color",))
    with pytest.raises(ValueError, match="colour-mapped picture of depth cannot be read"):
        scored(tmp_path, records, kind="disparity-affine")


def test_images_that_differ_in_their_suffix_alone_have_files_of_their_own(tmp_path):
    records = [record("a.jpg"), record("a.png", (30, 40))]
    predicted(tmp_path, records, METRIC, formats=("npz",))
    assert {p.name for p in tmp_path.glob("*.npz")} == {"a_jpg.depth.npz", "a_png.depth.npz"}
    _, found = scored(tmp_path, records)
    assert [i.key for i in found.per_image] == ["a.jpg", "a.png"] and found.abs_rel < 1e-6
    # also where the set has but one of them, and `predict` saw both
    with pytest.warns(UserWarning, match="1 files belong to no image: .*a_png.depth.npz"):
        _, found = scored(tmp_path, records[:1])
    assert found.abs_rel < 1e-6


def test_an_image_called_like_another_s_map_keeps_its_file(tmp_path):
    records = [record("a.jpg"), record("a.depth.jpg", (30, 40))]
    for r, name in zip(records, ("a", "a.depth"), strict=True):
        np.save(tmp_path / f"{name}.npy", r["depth"])
    _, found = scored(tmp_path, records, kind="metric")
    assert len(found.per_image) == 2 and found.abs_rel < 1e-6
    (tmp_path / "a.npy").unlink()
    with pytest.raises(ValueError, match="1 of 2 images have no file: a.jpg"):
        scored(tmp_path, records, kind="metric")
    np.save(tmp_path / "a.npy", records[0]["depth"])
    np.save(tmp_path / "a_jpg.npy", records[0]["depth"])
    with pytest.raises(ValueError, match="1 files belong to no image: .*a_jpg.npy"):
        scored(tmp_path, records, kind="metric")


def test_settings_that_are_none_are_named(tmp_path):
    predicted(tmp_path, [record()], METRIC, formats=("npz",))
    for text in ("[]", "{", "{}"):
        (tmp_path / "predict.json").write_text(text)
        with pytest.raises(ValueError, match="predict.json: not the settings of predict"):
            scored(tmp_path, [record()])


def test_more_files_than_images_end_the_run_only_where_predict_did_not_write_them(tmp_path):
    records = [record("a/1.jpg"), record("b.png")]
    predicted(tmp_path, records, METRIC, formats=("npz",))
    with pytest.warns(UserWarning, match="1 files belong to no image: .*b.depth.npz"):
        scored(tmp_path, records[:1])
    (tmp_path / "predict.json").unlink()
    with pytest.raises(ValueError, match="1 files belong to no image: .*b.depth.npz"):
        scored(tmp_path, records[:1])


def test_pictures_without_alpha_or_colour_count_as_grey(tmp_path):
    """Other tools save grey as RGB: the channels are equal."""
    records = [record()]
    grey = np.round(255 / records[0]["depth"]).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "a/1.png")
    _, found = scored(tmp_path, records, kind="disparity-affine")
    assert found.abs_rel < ROUNDING["color"] and found.per_image[0].levels
    points = {"points": np.array([[[1, 2], [3, 4]]]), "closer": np.array([0])}
    made = predictors.make(f"predictions:{tmp_path}", kind="disparity-affine", keys=["a/1.jpg"])
    pair = {k: v for k, v in records[0].items() if k in ("key", "image")} | points
    assert loop.evaluate_candidate(made, [pair]).per_image[0].levels, "of pairs, too"
