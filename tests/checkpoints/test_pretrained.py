"""Weights from files and folders: precisions, torch files, missing tensors, encoders."""

import json
import pathlib
import pickle
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from depth_anything_jax.checkpoints import (
    convert,
    export,
    licences,
    orbax_io,
    pretrained,
    readers,
    released,
)
from depth_anything_jax.utils import nested_dicts
from tests.helpers.weights_files import assert_holds, state_of, write

REGEX = r"resize_layers\.3\.weight"


@pytest.fixture(scope="module")
def official():
    return state_of()


# --- files


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_of_any_precision_become_float32(tmp_path, official, dtype):
    path = write(tmp_path / "x.safetensors", official, dtype=dtype)
    loaded = pretrained.load(path, version="v1")
    assert (loaded.variant, loaded.version, loaded.parts) == ("demo", "v1", "all")
    assert_holds(loaded, official, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_tensor(tmp_path, official, dtype):
    names = sorted(official)
    broken = official | {names[3]: official[names[3]].copy()}
    broken[names[3]].flat[-1] = np.nan
    path = write(tmp_path / "x.safetensors", broken, dtype=dtype)
    with pytest.raises(ValueError, match=rf"1 of [0-9]+ numbers of {names[3]} are NaN or infinite"):
        pretrained.load(path, version="v2")


def test_float64_is_not_narrowed(tmp_path, official):
    wide = {name: x.astype(np.float64) + 1e-12 for name, x in official.items()}
    loaded = pretrained.load(
        write(tmp_path / "x.safetensors", wide, dtype=np.float64), version="v2"
    )
    np.testing.assert_array_equal(
        loaded.params["encoder"]["cls_token"], wide["pretrained.cls_token"]
    )


def test_files_elsewhere_are_copied_first(tmp_path, official, monkeypatch):
    """As for gs:// paths, which safetensors and torch cannot open."""
    path = write(tmp_path / "x.safetensors", official)
    copied = []
    monkeypatch.setattr(readers, "is_remote", lambda path: not copied.append(path))
    assert_holds(pretrained.load(path, version="v2"), official)
    assert len(copied) == 1


def test_safetensors_need_no_torch(tmp_path, official, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises ImportError
    assert_holds(
        pretrained.load(write(tmp_path / "x.safetensors", official), version="v2"), official
    )


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("depth_anything_v2_vitb.pth", "depth-anything/Depth-Anything-V2-Base-hf"),
        ("depth_anything_vits14.pth", "LiheYoung/depth-anything-small-hf"),
        ("dinov2_vitl14_pretrain.pth", "facebook/dinov2-large"),
        ("mine.bin", "a .safetensors copy"),
    ],
)
def test_torch_file_without_torch(tmp_path, monkeypatch, name, twin):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImportError, match=r"depth_anything_jax\[torch\]") as caught:
        pretrained.load(str(tmp_path / name))
    assert twin in str(caught.value)


def test_official_repository_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="depth-anything/Depth-Anything-V2-Large-hf"):
        pretrained.load("depth-anything/Depth-Anything-V2-Large")


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".ckpt"])
def test_torch_files(tmp_path, official, suffix):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{n}": torch.from_numpy(x) for n, x in official.items()}
    torch.save(
        {"model": tensors, "epoch": 3, "previous_best": {"d1": 0.9}}, tmp_path / f"x{suffix}"
    )
    assert_holds(pretrained.load(str(tmp_path / f"x{suffix}"), version="v2"), official)
    metric = pretrained.load(str(tmp_path / f"x{suffix}"), version="v2", max_depth=80)
    assert (metric.head, metric.max_depth) == ("sigmoid", 80.0)
    assert_holds(metric, official)


def test_bfloat16_torch_file(tmp_path, official):
    torch = pytest.importorskip("torch")
    torch.save({n: torch.from_numpy(x).bfloat16() for n, x in official.items()}, tmp_path / "x.pth")
    loaded = pretrained.load(str(tmp_path / "x.pth"), version="v2")
    assert_holds(loaded, official, ml_dtypes.bfloat16)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, how):
    torch = pytest.importorskip("torch")
    sprung = tmp_path / "sprung"
    content = {"model": {"x": torch.zeros(1)}, "trap": Trap(sprung)}
    path = tmp_path / "x.pth"
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="more than tensors"):
        pretrained.load(str(path))
    assert not sprung.exists()
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(path.read_bytes())
    assert sprung.exists(), "the trap does not work, so the test shows nothing"


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("x.safetensors", b"12345678901234567890", ValueError, "damaged"),
        ("x.pth", b"no zip", ValueError, "damaged"),
        ("x.npz", b"", ValueError, r"weights are read from \.safetensors, \.pth"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, error, message):
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        pretrained.load(str(tmp_path / name))


def test_torch_file_with_a_list(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([torch.zeros(1)], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds a list, not a dict"):
        pretrained.load(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("source", ["missing/x.safetensors", "a/b/c", "/nowhere"])
def test_nothing_there(source):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        pretrained.load(source)


@pytest.mark.parametrize("source", ["runs/teacher_vitl", "./teacher", "../teacher", "~/teacher"])
def test_a_path_that_is_not_there_is_no_name_on_the_hub(source, monkeypatch):
    monkeypatch.setattr(released, "fetch", None)  # not asked
    with pytest.raises(FileNotFoundError, match=r"no such file or folder. A run's folder appears"):
        pretrained.load(source)


def test_a_folder_is_missed_before_a_name_on_the_hub(tmp_path, monkeypatch):
    def fetch(repo):
        raise FileNotFoundError("the Hub gave nothing")

    monkeypatch.setattr(released, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="^the Hub gave nothing"):
        pretrained.load("imports/v2s")
    (tmp_path / "imports").mkdir()
    with pytest.raises(FileNotFoundError, match="^no such folder: imports/v2s, though imports is"):
        pretrained.load("imports/v2s")


def test_home_is_found(tmp_path, monkeypatch, official):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.safetensors", official)
    assert_holds(pretrained.load("~/x.safetensors", version="v2"), official)


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither weights"):
        pretrained.load(str(tmp_path))


def test_folder_with_two_files(tmp_path, official):
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path / name, {"cls_token": np.zeros(1)})
    with pytest.raises(
        ValueError, match="holds a.safetensors, b.safetensors; give the path of one"
    ):
        pretrained.load(str(tmp_path))


def test_sharded_folder(tmp_path):
    state = state_of("demo", "hf")
    names = sorted(state)
    halves = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    for file, part in halves.items():
        write(tmp_path / file, {name: state[name] for name in part})
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_holds(pretrained.load(str(tmp_path), version="v2"), state)


# --- missing, superfluous, mis-shaped


def misfit(state):
    state = dict(state)
    del state["depth_head.resize_layers.3.weight"], state["pretrained.blocks.1.ls1.gamma"]
    state["pretrained.extra"] = np.zeros(2, np.float32)
    state["depth_head.projects.0.bias"] = np.zeros(25, np.float32)
    return state


def test_all_misfits_are_listed_at_once(tmp_path, official):
    path = write(tmp_path / "x.safetensors", misfit(official))
    with pytest.raises(convert.TensorMismatch, match="4 tensors do not fit") as caught:
        pretrained.load(path, version="v2")
    text = str(caught.value)
    assert "missing: depth_head.resize_layers.3.weight" in text
    assert "missing: pretrained.blocks.1.ls1.gamma" in text
    assert "not part of the model: pretrained.extra" in text
    assert "shape of depth_head.projects.0.bias: (25,) in the file, (24,) in the model" in text
    assert "--allow-missing" in text
    with pytest.raises(convert.TensorMismatch, match="2 tensors do not fit") as caught:
        pretrained.load(path, version="v2", allow_missing="gamma|resize_layers")
    assert not caught.value.missing


@pytest.mark.parametrize("fill", ["init", "zeros"])
def test_missing_tensors_are_filled_and_it_is_said(tmp_path, official, fill, caplog):
    names = ["depth_head.resize_layers.3.weight", "pretrained.blocks.2.norm1.weight"]
    state = {name: x for name, x in official.items() if name not in names}
    path = write(tmp_path / "x.safetensors", state)
    loaded = pretrained.load(path, version="v2", allow_missing=r"layers\.3|norm1", fill=fill)
    assert loaded.metadata["filled"]["by"] == fill
    assert sorted(loaded.metadata["filled"]["tensors"]) == names
    assert all(name in caplog.text for name in names)
    kernel = loaded.params["decoder"]["resize_layers_3"]["kernel"]
    scale = loaded.params["encoder"]["blocks"]["norm1"]["scale"]
    if fill == "zeros":
        assert not kernel.any() and not scale[2].any()
    else:  # Flax's initialiser: variance 1 / fan-in; LayerNorm starts at 1
        assert kernel.std() == pytest.approx((9 * 96) ** -0.5, rel=0.05)
        assert (scale[2] == 1).all()
    np.testing.assert_array_equal(scale[1], state["pretrained.blocks.1.norm1.weight"])
    assert export.describe(loaded)["filled"]["tensors"] == loaded.metadata["filled"]["tensors"]


def test_registers_are_named(tmp_path):
    state = state_of("demo", "dinov2", "encoder") | {"register_tokens": np.zeros((1, 4, 128))}
    with pytest.raises(convert.TensorMismatch, match="DINOv2 with registers"):
        pretrained.load(write(tmp_path / "x.safetensors", state))


def test_the_file_beside_the_project(shared):
    path = str(next((shared / "weights").glob("*.safetensors")))
    with pytest.raises(convert.TensorMismatch, match="missing: depth_head.resize_layers.3.weight"):
        pretrained.load(path)
    loaded = pretrained.load(path, allow_missing=REGEX, fill="zeros")
    facts = (loaded.variant, loaded.version, loaded.head, loaded.max_depth, loaded.licence)
    assert facts == ("vits", "v2", "relative", None, "Apache-2.0")
    sizes = [x.size for x in nested_dicts.flatten(loaded.params).values()]
    assert sum(sizes) == 23_457_985 + 384 * 384 * 9
    assert not loaded.params["decoder"]["resize_layers_3"]["kernel"].any()
    encoder = pretrained.load(path, parts="encoder")
    assert encoder.parts == "encoder" and set(encoder.params) == {"encoder"}


# --- checkpoints of our own


@pytest.fixture(scope="module")
def ours(official):
    return convert.from_torch(official)


def saved(folder, params):
    facts = {"variant": "demo", "version": "v2", "head": "relative"}
    orbax_io.save_params(folder, params, facts)
    return str(folder)


def test_checkpoints_of_our_own_never_see_torch_names(tmp_path, ours, monkeypatch):
    for name in ("from_torch", "to_torch", "canonical", "detect_layout"):
        monkeypatch.setattr(convert, name, None)
    path = saved(tmp_path / "run", ours)
    encoder = pretrained.load(path, parts="encoder")
    assert set(encoder.params) == {"encoder"} and encoder.metadata["layout"] == "flax"
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(path).params, ours)


def test_a_checkpoint_without_its_size_tells_it_by_its_shapes(tmp_path, ours):
    orbax_io.save_params(tmp_path / "run", ours, {"version": "v2", "head": "relative"})
    assert pretrained.load(str(tmp_path / "run")).variant == "demo"


def test_misfits_of_a_checkpoint_are_listed_by_their_paths(tmp_path, ours):
    flat = nested_dicts.flatten(ours)
    del flat["decoder/resize_layers_3/kernel"], flat["encoder/blocks/ls1/gamma"]
    flat["encoder/extra"] = flat["decoder/projects_0/bias"] = np.zeros(25, np.float32)
    path = saved(tmp_path / "run", nested_dicts.unflatten(flat))
    with pytest.raises(convert.TensorMismatch, match="4 tensors do not fit") as caught:
        pretrained.load(path)
    assert caught.value.missing == ["decoder/resize_layers_3/kernel", "encoder/blocks/ls1/gamma"]
    assert caught.value.extra == ["encoder/extra"]
    assert caught.value.misshaped == {"decoder/projects_0/bias": ((25,), (24,))}
    assert "pretrained." not in str(caught.value) and "depth_head." not in str(caught.value)


@pytest.mark.parametrize("fill", ["init", "zeros"])
def test_missing_parameters_of_a_checkpoint_are_filled(tmp_path, ours, fill):
    lost = "decoder/resize_layers_3/kernel"
    flat = nested_dicts.flatten(ours)
    kernel = flat.pop(lost)
    path = saved(tmp_path / "run", nested_dicts.unflatten(flat))
    loaded = pretrained.load(path, allow_missing="resize_layers_3", fill=fill)
    assert loaded.metadata["filled"] == {"by": fill, "tensors": [lost]}
    found = nested_dicts.flatten(loaded.params)
    assert found[lost].shape == kernel.shape and found[lost].any() == (fill == "init")
    for path, x in flat.items():
        np.testing.assert_array_equal(found[path], x)


# --- encoders


@pytest.mark.parametrize("layout", ["dinov2", "dinov2-hf"])
def test_encoder_files(tmp_path, layout):
    state = state_of("demo", layout, "encoder")
    path = write(tmp_path / "x.safetensors", state)
    loaded = pretrained.load(path)
    assert (loaded.parts, loaded.version) == ("encoder", None)
    assert_holds(loaded, state)
    with pytest.raises(ValueError, match="holds an encoder alone; ask for parts='encoder'"):
        pretrained.load(path, parts="all")
    with pytest.raises(ValueError, match="holds an encoder alone, which predicts no depth"):
        pretrained.load_pretrained(path)


def test_encoder_out_of_a_whole_model(tmp_path, official):
    path = write(tmp_path / "x.safetensors", official)
    loaded = pretrained.load(path, parts="encoder")
    assert set(loaded.params) == {"encoder"}
    whole = pretrained.load(path, version="v2").params["encoder"]
    for name, x in nested_dicts.flatten(whole).items():
        np.testing.assert_array_equal(nested_dicts.flatten(loaded.params["encoder"])[name], x)


def test_packaged_encoder(tmp_path, monkeypatch):
    params = convert.from_torch(state_of("demo", "dinov2", "encoder"))
    chain = licences.extend([], "encoder", "rendered images", "Apache-2.0")
    monkeypatch.setattr(readers, "_ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match="no file .*demo_encoder.safetensors"):
        pretrained.load("demo-encoder")
    facts = {"variant": "demo", "licence": "Apache-2.0", "licence_chain": chain}
    export.save_encoder(tmp_path / "demo_encoder.safetensors", params["encoder"], facts)
    loaded = pretrained.load("demo-encoder")
    assert (loaded.variant, loaded.parts, loaded.licence) == ("demo", "encoder", "Apache-2.0")
    assert loaded.metadata["licence_chain"] == chain
    for name, x in nested_dicts.flatten(params["encoder"]).items():
        ours = nested_dicts.flatten(loaded.params["encoder"])[name]
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, x.astype(np.float16).astype(np.float32))
