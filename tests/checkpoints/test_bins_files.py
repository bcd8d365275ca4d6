"""Weights with a bins head in and out: V1's files, our checkpoints, what they say."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import convert, export, orbax_io, pretrained, readers, released
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.models import VARIANTS, Variant, bins
from depth_anything_jax.utils import nested_dicts
from depth_anything_jax.utils.encoders import DINOV2
from tests import parity
from tests.helpers.small_networks import FAST_TO_COMPILE
from tools import export_stablehlo, export_torch, import_torch

TINY = Variant(64, 6, 2, 256, 16, (8, 16, 24, 32), (1, 2, 4, 5), grid=4)
INPUT = transforms.InputTransform((42, 56), False, "bilinear-corners", DINOV2)
K_IDX, K_MINUS_1 = (
    f"conditional_log_binomial.log_binomial_transform.{n}" for n in ("k_idx", "K_minus_1")
)
CENTRES = pytest.mark.parametrize("centres", bins.CENTRES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


def state_of(centres="softplus"):
    """A file of V1's metric code: its tensors and its two buffers."""
    rng = np.random.default_rng(0)
    expected = pretrained.expected_tensors("tiny", "zoedepth", bin_centres=centres)
    state = {n: rng.normal(size=x.shape).astype(np.float32) * 0.1 for n, x in expected.items()}
    index = np.arange(64).reshape(1, 64, 1, 1)
    return state | {K_IDX: index, K_MINUS_1: np.float32([[[[63]]]])}


def write(path, state, metadata=None):
    notes = {readers.METADATA_KEY: json.dumps(metadata)} if metadata else None
    from safetensors.numpy import save_file

    save_file(state, str(path), notes)
    return str(path)


def same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, x in theirs.items():
        assert ours[name].dtype == x.dtype and ours[name].shape == x.shape, name
        assert np.ascontiguousarray(ours[name]).tobytes() == np.ascontiguousarray(x).tobytes()


@CENTRES
@pytest.mark.parametrize("wrapped", [False, True])
def test_v1_files_come_in_and_go_out_bit_for_bit(tmp_path, centres, wrapped):
    """As ZoeDepth's trainer saves them; kind of centres and version are found out."""
    torch = pytest.importorskip("torch")
    state = state_of(centres)
    tensors = {n: torch.from_numpy(x) for n, x in state.items()}
    if wrapped:
        tensors = {f"module.{n}": x for n, x in tensors.items()}
        tensors = {"model": tensors, "optimizer": None, "epoch": 4}
    torch.save(tensors, tmp_path / "ZoeDepthv1_best.pt")
    with pytest.raises(ValueError, match="pass max_depth in metres"):
        pretrained.load(str(tmp_path / "ZoeDepthv1_best.pt"))
    loaded = pretrained.load(str(tmp_path / "ZoeDepthv1_best.pt"), max_depth=80)
    assert (loaded.head, loaded.version, loaded.bin_centres) == ("bins", "v1", centres)
    assert (loaded.max_depth, loaded.variant, loaded.parts) == (80.0, "tiny", "all")
    assert loaded.input == transforms.BINS_INPUT
    assert set(loaded.params) == {"encoder", "decoder", "bins"}
    export.export(loaded, str(tmp_path / "x.pth"), layout="official")
    assert '"size": [392, 518]' in (tmp_path / "x.README.md").read_text()
    again = torch.load(tmp_path / "x.pth", weights_only=True)
    same({n: x.numpy() for n, x in again.items()}, state)


def test_known_places():
    state = state_of()
    params = convert.from_torch(state)
    seed = state["seed_bin_regressor._net.2.weight"]
    assert params["bins"]["seed_bin_regressor"]["net_2"]["kernel"][0, 0, 7, 9] == seed[9, 7, 0, 0]
    last = state["conditional_log_binomial.mlp.2.bias"]
    np.testing.assert_array_equal(params["bins"]["conditional_log_binomial"]["mlp_2"]["bias"], last)
    inner = state["core.core.depth_head.scratch.refinenet2.out_conv.bias"]
    np.testing.assert_array_equal(params["decoder"]["refinenet2"]["out_conv"]["bias"], inner)
    with pytest.raises(ValueError, match="'official' layout has no place for a bins head"):
        convert.to_torch(params, "official")
    assert set(convert.to_torch(params, "dinov2")) == set(
        pretrained.expected_tensors("tiny", "dinov2", "encoder")
    )


def test_tensors_that_miss_or_are_too_many_are_listed(tmp_path):
    state = state_of()
    del state["attractors.3._net.0.bias"], state[K_IDX]  # the buffer holds nothing learnt
    state["hybrid.weight"] = np.zeros(2, np.float32)
    with pytest.raises(convert.TensorMismatch, match="2 tensors do not fit") as caught:
        pretrained.load(write(tmp_path / "x.safetensors", state), max_depth=10)
    assert caught.value.missing == ["attractors.3._net.0.bias"]
    assert caught.value.extra == ["hybrid.weight"]


def test_the_encoder_alone(tmp_path):
    loaded = pretrained.load(write(tmp_path / "x.safetensors", state_of()), parts="encoder")
    assert set(loaded.params) == {"encoder"} and loaded.head == "relative"


@pytest.mark.parametrize(("place", "metres"), [("indoor", 10.0), ("outdoor", 80.0)])
def test_released_names(place, metres):
    known = released.by_path(f"/somewhere/depth_anything_metric_depth_{place}.pt")
    assert known is not None
    facts = known.variant, known.version, known.head, known.max_depth, known.licence
    assert facts == ("vitl", "v1", "bins", metres, "Apache-2.0")


def test_a_name_alone_gives_the_range(tmp_path, monkeypatch):
    known = released.by_path("depth_anything_metric_depth_outdoor.pt")._replace(variant="tiny")
    monkeypatch.setattr(released, "by_path", lambda path: known)
    loaded = pretrained.load(write(tmp_path / "x.safetensors", state_of()))
    assert (loaded.head, loaded.max_depth, loaded.licence) == ("bins", 80.0, "Apache-2.0")


def ours(centres="softplus", **changed):
    state = state_of(centres)
    return Weights(
        **{
            "params": convert.from_torch(state),
            "variant": "tiny",
            "version": "v2",
            "head": "bins",
            "max_depth": 12.5,
            "licence": None,
            "source": "run",
            "parts": "all",
            "metadata": {},
            "input": INPUT,
            "bin_centres": centres,
            **changed,
        }
    )


@CENTRES
def test_tools_there_and_back(tmp_path, centres):
    """File -> Orbax -> file, with version, range and input that are not the released ones."""
    files = [str(tmp_path / name) for name in ("a.safetensors", "b", "c.safetensors")]
    export.export(ours(centres), files[0], layout="official")
    import_torch.main(files[:2])
    export_torch.main([*files[1:], "--layout", "official"])
    for file in files:
        loaded = pretrained.load(file)
        facts = loaded.version, loaded.head, loaded.max_depth, loaded.input, loaded.bin_centres
        assert facts == ("v2", "bins", 12.5, INPUT, centres)
        same(nested_dicts.flatten(loaded.params), nested_dicts.flatten(ours(centres).params))
        with pytest.raises(ValueError, match="max_depth=80 contradicts"):
            pretrained.load(file, max_depth=80)
    _, meta = orbax_io.load_params(files[1])
    expected = {"size": [42, 56], "keep_aspect": False, "resize": "bilinear-corners"}
    assert meta["input"] == expected and meta["bin_centres"] == centres
    with pytest.raises(SystemExit, match="ValueError: transformers has no network"):
        export_torch.main([files[1], str(tmp_path / "d"), "--layout", "hf"])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("facts", "bins_head", "message"),
    [
        ({"head": "sigmoid"}, True, "said to have a sigmoid head, .* those of a bins head"),
        ({"head": "bins"}, False, "said to have a bins head, but its tensors are without"),
        ({"head": "bins"}, True, "do not say the bins head's input"),
        (
            {"head": "bins", "input": {"size": 518}},
            True,
            "input .*: needs exactly keep_aspect, res",
        ),
        ({"head": "adabins"}, True, "head='adabins' is unknown; choose one of relative, sigmoid"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path, facts, bins_head, message):
    state = state_of()
    if not bins_head:
        params = convert.from_torch(state)
        del params["bins"]
        state = {
            n: np.ascontiguousarray(x) for n, x in convert.to_torch(params, "official").items()
        }
    facts = {"version": "v1", "max_depth": 10.0, **facts}
    with pytest.raises(ValueError, match=message):
        pretrained.load(write(tmp_path / "x.safetensors", state, facts))


def test_metres_of_a_whole_network(tmp_path, x64, monkeypatch):
    """Encoder and decoder of transformers' Depth Anything, hooked as V1 hooks its own, under the
    metric head of transformers' ZoeDepth; all of it read from one file in V1's layout."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.zoedepth import modeling_zoedepth

    from tests.helpers import reference_model
    from tests.helpers.bins_head import head_weights, in_transformers

    def log_binom(n, k, original=modeling_zoedepth.log_binom):
        """In float64, which its integers would not become."""
        return original(n.double(), k.double())

    images = np.random.default_rng(1).normal(size=(1, 42, 56, 3))
    core = reference_model.random_model(TINY, images, version="v1", dtype=torch.float64)
    reference_model.use_official_positions(core)
    state = head_weights("softplus")
    # Features of this network are a hundredfold those that head_weights expects.
    state["conditional_log_binomial.mlp.0.weight"][:, :33] *= 0.01
    caught = {}

    def keep(name):
        return lambda module, inputs, output: caught.__setitem__(name, output)

    core.head.activation1.register_forward_hook(keep("activation"))
    core.neck.convs[3].register_forward_hook(keep("layer4_rn"))
    for i, layer in enumerate(core.neck.fusion_stage.layers):
        layer.register_forward_hook(keep(i))
    _, relative = reference_model.forward(core, images)
    monkeypatch.setattr(modeling_zoedepth, "log_binom", log_binom)
    with torch.no_grad():
        metres, _ = in_transformers("softplus", state, torch.float64)(
            outconv_activation=caught["activation"],
            bottleneck=caught["layer4_rn"],
            feature_blocks=[caught[i] for i in range(4)],
            relative_depth=torch.from_numpy(relative),
        )
    metres = metres[:, 0].numpy()
    assert metres.shape == (1, 42, 56) and metres.std() > 0.3

    official = convert.to_torch(reference_model.params(core), "official")
    file = {f"core.core.{n}": np.ascontiguousarray(x) for n, x in official.items()} | state
    model, params = pretrained.load_pretrained(
        write(tmp_path / "x.safetensors", file), max_depth=10.0, dtype=jnp.float64
    )
    run = jax.jit(model.apply, compiler_options=FAST_TO_COMPILE)
    found = run({"params": params}, jnp.asarray(images))
    # PyTorch's softplus is linear from 20 on, 2e-9 away
    assert parity.relative_error(found, metres) <= 10 * parity.FLOAT64


def test_a_program_for_another_input_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: ours())
    with pytest.raises(SystemExit, match="size 56x56: every input of this network is 42x56 pixels"):
        export_stablehlo.main(["run", str(tmp_path / "x"), "--size", "56"])
    assert not list(tmp_path.iterdir())
    assert export.own_size(ours()) == (42, 56)


@pytest.mark.nightly
def test_a_program_has_the_input_of_the_bins_head(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: ours())
    export_stablehlo.main(["run", str(tmp_path / "x")])
    said = json.loads((tmp_path / "x/metadata.json").read_text())["input"]
    assert (said["size"], said["shape"]) == ([42, 56], ["batch", 42, 56, 3])


def test_a_head_of_its_own_input_is_not_a_default():
    """Weights put together by hand are described as they are."""
    described = export.describe(dataclasses.replace(ours(), input=transforms.BINS_INPUT))
    assert described["input"]["size"] == [392, 518]
    assert "bin_centres" not in export.describe(ours(head="sigmoid", bin_centres=None))
