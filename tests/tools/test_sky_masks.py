"""Sky masks for pairs: what is written, what is left as it is, going on, and a real network."""

import importlib.util
import json
import pathlib
import sys

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.file_formats import formats
from depth_anything_jax.data.sources import manifest
from depth_anything_jax.data.sources.base import kind_of

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("sky_masks", ROOT / "tools/sky_masks.py")
sky_masks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sky_masks)
BLUE = (40, 90, 250)


@pytest.fixture
def pairs(tmp_path):
    """Blue above, brown below; labels of half the size; the last two pairs need no mask."""
    folder = tmp_path / "pairs"
    (folder / "park").mkdir(parents=True)
    rows = []
    for i in range(5):
        image = np.zeros((40, 60, 3), np.uint8)
        image[: 8 + 4 * i], image[8 + 4 * i :] = BLUE, (120, 90, 40)
        name = f"park/{i}.png"
        (folder / name).write_bytes(formats.encode_png(image))
        depth = np.full((20, 30), 5.0, np.float32)
        depth[: 4 + 2 * i] = 0
        np.save(folder / f"park/{i}.npy", depth)
        rows.append({"rgb": name, "depth": f"park/{i}.npy", "domain": "outdoor"})
    (folder / "own.png").write_bytes(formats.encode_png(np.eye(20, 30, dtype=np.uint8)))
    rows[3]["sky"] = "own.png"
    rows[4]["sky_above"] = 100
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


def blue_is_sky(*_):
    """Stands for a network."""

    def segment(images, sizes):
        segment.calls += 1
        return [
            cv2.resize((i[..., 2] > i[..., 0]).astype(np.uint8), (w, h)).astype(bool)
            for i, (h, w) in zip(images, sizes, strict=True)
        ]

    segment.calls = 0
    return segment


def run(pairs, out, *more):
    sky_masks.main(["--source", f"rgbd:{pairs}", "--out", str(out), *more])


def test_training_sees_the_masks_and_all_else_as_before(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sky_masks, "load_model", blue_is_sky)
    out = tmp_path / "elsewhere" / "sky"
    run(pairs, out, "--batch_size", "2")
    assert "3 masks, 3 of them with sky (30.0% of the pixels)" in capsys.readouterr().out
    before, after = (registry.make(registry.parse(f"rgbd:{x}?outside=True")) for x in (pairs, out))
    assert len(after) == 5
    for i in range(5):
        old, new = before[i], after[i]
        assert kind_of(old) == kind_of(new)
        for field in ("image", kind_of(old), "valid"):
            np.testing.assert_array_equal(old[field], new[field])
        assert old["domain"] == new["domain"]
        if i < 3:
            assert not old["sky"].any()
            expected = np.zeros((20, 30), bool)
            expected[: 4 + 2 * i] = True
            np.testing.assert_array_equal(new["sky"], expected)
        else:
            np.testing.assert_array_equal(new["sky"], old["sky"])
    assert after[3]["sky"].sum() == 20


def test_a_second_call_makes_what_is_missing_and_only_by_the_same_model(
    pairs, tmp_path, monkeypatch, capsys
):
    segment = blue_is_sky()
    out = tmp_path / "sky"
    with monkeypatch.context() as patch:
        patch.setattr(sky_masks, "load_model", lambda *_: sys.exit("no such model"))
        with pytest.raises(SystemExit, match="no such model"):
            run(pairs, out, "--model", "misspelt")
    monkeypatch.setattr(sky_masks, "load_model", lambda *_: segment)
    run(pairs, out)
    assert segment.calls == 3
    (out / "masks/park/1.png.png").unlink()
    run(pairs, out)
    assert segment.calls == 4
    assert "2 masks exist, 1 to make" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="another model .*, now 'else'. Use another --out"):
        run(pairs, out, "--model", "else")
    with pytest.raises(SystemExit, match="not empty"):
        run(pairs, pairs / "park")


def test_a_broken_pair_is_left_out_and_told(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sky_masks, "load_model", blue_is_sky)
    (pairs / "park/1.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as left:
        run(pairs, tmp_path / "sky")
    assert left.value.code == 3
    assert "left out: park/1.png: " in capsys.readouterr().out
    card = json.loads((tmp_path / "sky/card.json").read_text())
    assert card["pairs"] == 4 and list(card["left_out"]) == ["park/1.png"]
    assert len(registry.make(registry.parse(f"rgbd:{tmp_path / 'sky'}?outside=True"))) == 4


def test_sources_without_label_files_are_refused(pairs, tmp_path):
    for source in (f"folder:{pairs}", f"rgbd:{pairs}?labelled=False"):
        with pytest.raises(SystemExit, match="masks can only be made for labels in files"):
            sky_masks.main(["--source", source, "--out", str(tmp_path / "sky")])


def test_a_network_of_transformers_is_asked_as_its_own_pipeline_asks_it(pairs, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch (CONTRIBUTING.md)")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    import PIL.Image

    torch.manual_seed(0)
    names = {0: "wall", 1: "sky", 2: "earth, ground"}
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8,
        id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.weight.data *= 50  # so that the classes differ over an image
    folder = tmp_path / "segformer"
    model.save_pretrained(folder)
    processor = {"image_processor_type": "SegformerImageProcessor", "size": 64, "resample": 2,
                 "image_mean": [0.5, 0.4, 0.4], "image_std": [0.2, 0.2, 0.3]}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), (60, 40))
    theirs = transformers.pipeline("image-segmentation", model=str(folder))(
        PIL.Image.fromarray(image)
    )
    expected = np.array(next(x["mask"] for x in theirs if x["label"] == "sky")) > 0
    assert 0.02 < expected.mean() < 0.98
    (mask,) = sky_masks.load_model(str(folder), "sky", "cpu")([image], [(40, 60)])
    np.testing.assert_array_equal(mask, expected)
    ground = sky_masks.load_model(str(folder), "ground", "cpu")([image], [(40, 60)])[0]
    assert not (ground & mask).any()
    with pytest.raises(SystemExit, match="no such class; it has wall, sky"):
        sky_masks.load_model(str(folder), "cloud", "cpu")
    with pytest.raises(SystemExit, match="download the model's folder elsewhere"):
        sky_masks.load_model(str(tmp_path / "nowhere"), "sky", "cpu")


def test_an_entry_written_back_is_the_same_entry():
    rows = [
        {"rgb": "a/1.png", "depth": "a/1.npy"},
        {"rgb": "b.png", "depth": "b.png", "fmt": "png16", "scale": 5, "abs": True, "K": [1] * 9},
        {"rgb": "c.png", "depth": "c.npz", "field": "d", "kind": "disparity", "offset": 2.5},
        {"rgb": "d.png", "depth": "d.pfm", "kind": "disparity", "shift_known": True,
         "valid": "v.png", "sky": "s.png", "dataset": "x",
         "domain": "y", "scene": "z", "split": "test"},
        {"rgb": "e.png", "depth": "e.npy", "sky_above": 1000},
    ]  # fmt: skip
    for row in rows:
        entry = manifest.parse(row, "here")
        assert manifest.parse(manifest.to_fields(entry), "there") == entry
    written = manifest.to_fields(manifest.parse(rows[1], "here"))
    assert {*rows[1], "fx", "fy", "cx", "cy"} - {"K"} <= set(written)
