"""Weights out: transformers draws the same picture; every file comes back bit for bit."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import convert, export, licences, orbax_io, pretrained, readers
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.models import VARIANTS, Variant, build_encoder
from depth_anything_jax.utils import nested_dicts
from depth_anything_jax.utils.encoders import DINOV2
from tests import parity
from tools import export_torch, import_torch

TINY = Variant(64, 6, 2, 256, 16, (8, 16, 24, 32), (1, 2, 4, 5), grid=4)
GATED = dataclasses.replace(TINY, depth=7, v2_taps=(1, 2, 4, 6), hidden=176, swiglu=True)
CHAIN = licences.extend(
    licences.extend([], "teacher", "some/teacher", "CC-BY-NC-4.0"), "student", "run", "Apache-2.0"
)


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "gated", GATED)


@pytest.fixture(scope="module")
def reference_model():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.helpers import reference_model

    return reference_model


def photos(count=1, size=56):
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


def random_weights(variant="tiny", version="v2", max_depth=None, parts="all"):
    rng = np.random.default_rng(0)
    layout = "official" if parts == "all" else "dinov2"
    expected = pretrained.expected_tensors(variant, layout, parts)
    state = {n: rng.normal(size=x.shape).astype(np.float32) * 0.1 for n, x in expected.items()}
    head = "relative" if max_depth is None else "sigmoid"
    return Weights(
        params=convert.from_torch(state),
        variant=variant,
        version=version,
        head=head,
        max_depth=max_depth,
        licence="CC-BY-NC-4.0",
        source="run",
        parts=parts,
        metadata={"licence_chain": CHAIN},
        input=transforms.OFFICIAL_INPUT,
    )


def assert_same(ours, theirs):
    """Parameters bit for bit, and all that is known of them."""
    a, b = nested_dicts.flatten(ours.params), nested_dicts.flatten(theirs.params)
    assert set(a) == set(b)
    for name, x in a.items():
        assert x.dtype == b[name].dtype
        np.testing.assert_array_equal(x, b[name], name)
    for name in ("variant", "head", "max_depth", "licence", "parts"):
        assert getattr(ours, name) == getattr(theirs, name), name
    if ours.parts == "all":
        assert ours.version == theirs.version
    assert ours.metadata["licence_chain"] == CHAIN


CASES = [
    ("tiny", "v1", None),
    ("tiny", "v2", 20),
    ("gated", "v2", None),
]


@pytest.mark.parametrize(("variant", "version", "max_depth"), CASES)
def test_same_picture_in_both_directions(tmp_path, reference_model, variant, version, max_depth):
    """transformers saves, we load; we export, transformers loads: one picture."""
    transformers = reference_model.transformers
    theirs = reference_model.random_model(
        VARIANTS[variant], photos(), version=version, max_depth=max_depth
    )
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = pretrained.load(str(tmp_path / "theirs"))
    facts = (loaded.variant, loaded.version, loaded.head, loaded.max_depth)
    assert facts == (variant, version, "relative" if max_depth is None else "sigmoid", max_depth)

    images = photos(2)
    _, picture = reference_model.forward(theirs, images)
    model, params = pretrained.load_pretrained(str(tmp_path / "theirs"))
    ours = jax.jit(model.apply)({"params": params}, jnp.asarray(images))
    assert parity.relative_error(ours, picture) <= parity.OUTPUT_FLOAT32["vits"]

    export.export(loaded, str(tmp_path / "ours"), layout="hf")
    again = transformers.AutoModelForDepthEstimation.from_pretrained(tmp_path / "ours")
    assert type(again) is type(theirs)
    again.config.backbone_config._attn_implementation = "eager"
    again = type(again).from_pretrained(tmp_path / "ours", config=again.config).eval()
    _, picture_again = reference_model.forward(again, images)
    np.testing.assert_array_equal(picture_again, picture)


@pytest.mark.parametrize(("variant", "version", "max_depth"), CASES)
def test_configuration_is_what_transformers_writes(
    tmp_path, reference_model, variant, version, max_depth
):
    theirs = reference_model.random_model(
        VARIANTS[variant], photos(), version=version, max_depth=max_depth
    )
    theirs.save_pretrained(tmp_path)
    want = json.loads((tmp_path / "config.json").read_text())
    have = export.hf_config(random_weights(variant, version, max_depth))
    backbone, expected = have.pop("backbone_config"), want.pop("backbone_config")
    expected["architectures"] = ["Dinov2Backbone"]  # as the released files have it
    assert have == {name: want[name] for name in have}
    assert backbone == {name: expected[name] for name in backbone}
    layerwise = {"num_hidden_layers", "hidden_size", "num_attention_heads", "out_indices"}
    assert layerwise <= set(backbone)


def test_preprocessor_loads(tmp_path, reference_model):
    transformers = reference_model.transformers
    export.export(random_weights(), str(tmp_path / "x"), layout="hf")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "x", use_fast=False)
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    pixels = processor(image, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 56, 84)
    uniform = processor(np.full((56, 56, 3), 51, np.uint8), return_tensors="np")["pixel_values"]
    want = (0.2 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(uniform[0, :, 0, 0], want, rtol=1e-5)  # float32


def test_metres_are_asked_for_at_the_size_that_they_were_learned_at():
    """At another, the focal length in pixels is another, and so are the metres."""
    metric = dataclasses.replace(
        random_weights(max_depth=20), input=transforms.training_input(42, DINOV2)
    )
    assert export.hf_preprocessor(metric)["size"] == {"height": 42, "width": 42}
    relative = dataclasses.replace(random_weights(), input=transforms.training_input(42, DINOV2))
    assert export.hf_preprocessor(relative)["size"] == {"height": 56, "width": 56}


def test_exported_encoder_in_transformers(tmp_path, reference_model):
    transformers, torch = reference_model.transformers, reference_model.torch
    what = random_weights(parts="encoder")
    export.export(what, str(tmp_path / "x"), layout="hf")
    theirs = transformers.Dinov2Model.from_pretrained(tmp_path / "x").eval()
    images = photos()
    with torch.no_grad():
        tokens = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).last_hidden_state[:, 1:]
    params = jax.tree.map(jnp.asarray, what.params["encoder"])
    ours = build_encoder("tiny").apply({"params": params}, jnp.asarray(images))
    assert parity.relative_error(ours.tokens, tokens.numpy()) <= parity.TAPS_FLOAT32
    assert_same(pretrained.load(str(tmp_path / "x")), what)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "folder"])
@pytest.mark.parametrize("max_depth", [None, 80.0])
def test_files_come_back_with_all_that_is_known(tmp_path, name, max_depth):
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    what = random_weights("gated", "v1", max_depth)
    layout = "hf" if name == "folder" else "official"
    path = export.export(what, str(tmp_path / "new" / name), layout=layout)
    assert_same(pretrained.load(str(path)), what)
    card = path / "README.md" if layout == "hf" else path.with_name("x.README.md")
    assert card.read_text().startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "| teacher | some/teacher | CC-BY-NC-4.0 |" in card.read_text()


def test_what_lies_beside_a_pth_comes_along_from_a_bucket(tmp_path, monkeypatch):
    """gs:// itself needs a network; this takes the same path on local files."""
    pytest.importorskip("torch")
    what = random_weights("gated", "v1", 80.0)
    path = export.export(what, str(tmp_path / "x.pth"), layout="official")
    monkeypatch.setattr(readers, "is_remote", lambda path: True)
    assert_same(pretrained.load(str(path)), what)


def test_official_pth_is_a_flat_dict(tmp_path):
    torch = pytest.importorskip("torch")
    export.export(random_weights(), str(tmp_path / "x.pth"), layout="official")
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(state) == set(pretrained.expected_tensors("tiny", "official"))


def test_official_encoder_has_dinov2_names(tmp_path):
    what = random_weights(parts="encoder")
    path = export.export(what, str(tmp_path / "x.safetensors"), layout="official")
    loaded = pretrained.load(str(path))
    assert loaded.metadata["layout"] == "dinov2"
    assert_same(loaded, what)


def test_pth_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"depth_anything_jax\[torch\].*\.safetensors"):
        export.export(random_weights(), str(tmp_path / "x.pth"), layout="official")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("x.npz", "official", "written as .safetensors or .pth"),
        ("x", "onnx", "layout='onnx' is unknown; choose one of official, hf"),
        ("x", "hf", "max_depth=12.5: transformers' config holds whole metres"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, layout, message):
    with pytest.raises(ValueError, match=message):
        export.export(random_weights(max_depth=12.5), str(tmp_path / name), layout=layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_nothing_is_overwritten(tmp_path, layout):
    name = tmp_path / "x.safetensors"
    what = random_weights()
    export.export(what, str(name), layout=layout)
    with pytest.raises(FileExistsError, match="is there already"):
        export.export(what, str(name), layout=layout)


def test_tools_there_and_back(tmp_path, capsys):
    """File -> Orbax -> folder -> Orbax -> file: the bytes of the first file's tensors."""
    what = random_weights("tiny", "v1", 80.0)
    files = [str(tmp_path / name) for name in ("a.safetensors", "b", "c", "d", "e.safetensors")]
    export.export(what, files[0], layout="official")
    import_torch.main(files[:2])
    export_torch.main([*files[1:3], "--layout", "hf"])
    import_torch.main(files[2:4])
    export_torch.main([*files[3:5], "--layout", "official"])
    assert_same(pretrained.load(files[4]), what)
    _, meta = orbax_io.load_params(files[3])
    assert meta["licence"] == "CC-BY-NC-4.0" and meta["max_depth"] == 80.0
    assert capsys.readouterr().out.count("all of tiny, licence CC-BY-NC-4.0") == 4
    with pytest.raises(SystemExit, match="FileExistsError: .* is not empty"):
        import_torch.main(files[:2])
    with pytest.raises(SystemExit, match="FileExistsError: .* is there already"):
        export_torch.main([*files[3:5], "--layout", "official"])


@pytest.mark.parametrize("spelling", ["--allow-missing", "--allow_missing"])
def test_import_fills_on_request(tmp_path, capsys, spelling):
    state = convert.to_torch(random_weights().params, "official")
    del state["depth_head.resize_layers.3.weight"]
    export._save_safetensors(state, tmp_path / "x.safetensors", {})
    arguments = [str(tmp_path / "x.safetensors"), str(tmp_path / "y"), "--model-version", "v2"]
    with pytest.raises(SystemExit, match="TensorMismatch: (?s:.*)--allow-missing"):
        import_torch.main(arguments)
    import_torch.main([*arguments, spelling, "resize_layers", "--fill", "zeros"])
    assert "filled by zeros: depth_head.resize_layers.3.weight" in capsys.readouterr().out
    again = pretrained.load(str(tmp_path / "y"))
    assert not again.params["decoder"]["resize_layers_3"]["kernel"].any()
    assert again.metadata["filled"]["by"] == "zeros"


@pytest.mark.nightly
def test_vit_s_at_518(tmp_path, reference_model):
    theirs = reference_model.random_model(VARIANTS["vits"], photos(size=518), version="v1")
    theirs.save_pretrained(tmp_path / "x")
    images = photos(size=518)
    _, picture = reference_model.forward(theirs, images)
    model, params = pretrained.load_pretrained(str(tmp_path / "x"))
    ours = jax.jit(model.apply)({"params": params}, jnp.asarray(images))
    assert parity.relative_error(ours, picture) <= parity.OUTPUT_FLOAT32["vits"]
