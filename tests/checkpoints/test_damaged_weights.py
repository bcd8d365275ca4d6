"""Damaged and hostile weights files: one line that names the file and what is wrong."""

import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from depth_anything_jax.checkpoints import convert, orbax_io, pretrained, readers, released
from tests.helpers.weights_files import state_of, write

FIRST = "depth_head.projects.0.bias"


@pytest.fixture(scope="module")
def official():
    return state_of()


@pytest.fixture(scope="module")
def tensors(official):
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(x) for name, x in official.items()}


def refused(source, message, **arguments):
    with pytest.raises(ValueError, match=message) as caught:
        pretrained.load(str(source), **arguments)
    assert "\n" not in str(caught.value)


# --- tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda torch, x: x[None].to_sparse(), "is sparse; only dense"),
        (lambda torch, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is quantised"),
        (lambda torch, x: x.to("meta"), "is on the device 'meta', without values"),
        (lambda torch, x: x.to(torch.complex64), "is complex64; weights are floating-point"),
        (lambda torch, x: torch.complex(x, x).conj(), "of torch.complex64 has no counterpart"),
        (lambda torch, x: (9 * x).to(torch.int8), "is int8; weights are floating-point"),
        (lambda torch, x: x[:1].half().expand(10**12), r"of \(10+,\) repeats fewer stored"),
        (lambda torch, x: x / 0, "24 of 24 numbers of .* are NaN or infinite"),
    ],
    ids=["sparse", "quantised", "meta", "complex", "conjugate", "int8", "expanded", "infinite"],
)
def test_tensors_of_other_kinds(tmp_path, tensors, change, message):
    import torch

    path = tmp_path / "x.pth"
    torch.save({**tensors, FIRST: change(torch, tensors[FIRST])}, path)
    refused(path, rf"^{path}: (tensor )?.*{FIRST}.*{message}|^{path}: .*{message}", version="v2")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: 1}, r"tensors are called \[0\], which are not names"),
        ({("a", 1): 1}, r"tensors are called \[\('a', 1\)\]"),
        ({}, r"tensor names such as \[\] belong to no known layout"),
    ],
)
def test_names_that_are_none(tmp_path, names, message):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save({name: torch.zeros(1) for name in names}, path)
    refused(path, f"^{path}: {message}")


def test_a_compressed_torch_file(tmp_path, tensors):
    """Zeros of 4 GB make a file of 4 MB."""
    import torch

    torch.save(tensors, tmp_path / "x.pth")
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(path, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(path, f"^{path}: '.*' in it is compressed, which torch.save never does")


def test_float8_and_nan_in_safetensors(tmp_path, official):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "x.safetensors"
    save_torch({FIRST: torch.zeros(4).to(torch.float8_e4m3fn)}, str(path))
    refused(path, f"^{path}: tensor {FIRST} is F8_E4M3; weights are read in F64, F32")
    holes = official[FIRST].copy()
    holes[3] = np.nan
    write(path, {**official, FIRST: holes})
    refused(path, f"^{path}: 1 of 24 numbers of {FIRST} are NaN or infinite", version="v2")


def test_a_diverged_checkpoint_of_our_own(tmp_path, official):
    params = convert.from_torch(official)
    params["decoder"]["projects_0"]["bias"] = np.full(24, np.nan, np.float32)
    orbax_io.save_params(tmp_path / "run", params, {"version": "v2", "head": "relative"})
    refused(tmp_path / "run", "run: 24 of 24 numbers of decoder/projects_0/bias are NaN")


# --- metadata

DEEP = "[" * 200_000
FACTS = {"version": "v2", "head": "sigmoid", "max_depth": 80}
LINK = {"role": "teacher", "source": "a", "licence": "MIT"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ", its metadata: damaged, not JSON"),
        ("[]", ", its metadata: a JSON list and not an object"),
        (DEEP, ", its metadata: the JSON is nested too deeply"),
    ],
    ids=["broken", "list", "deep"],
)
def test_metadata_that_are_no_object(tmp_path, official, text, message):
    path = tmp_path / "x.safetensors"
    save_file({FIRST: official[FIRST]}, str(path), {readers.METADATA_KEY: text})
    refused(path, f"^{path}{message}")


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "variant": (5, ["vits"]),
        "version": (2, ["v2"], "v9"),
        "head": (7, "foo"),
        "max_depth": ("20", True, -1, 0, [80], float("nan"), float("inf")),
        "focal": ("700", 0),
        "licence": (3, ["MIT"]),
        "licence_chain": ("MIT", [1], {"a": 1}, [{"role": "a"}], [LINK | {"licence": [1]}]),
        "input": (5, {"size": 518}),
        "bin_centres": (3,),
        "filled": (7, {"by": "init", "tensors": "abc"}),
    }.items(),
)
def test_fields_of_a_wrong_type(tmp_path, official, field, values):
    for value in values:
        path = write(tmp_path / "x.safetensors", official, {**FACTS, field: value})
        refused(path, f"^{path}: {field}.* is not |^{path}: ({field}|head|input) .*none|"
                      f"^{path}: {field}=.* is unknown|"
                      f"^{path}: {field} .*: needs exactly")  # fmt: skip
    write(path, official, {**FACTS, "licence_chain": [LINK, LINK | {"licence": None}]})
    assert pretrained.load(path).licence is None


def test_metadata_beside_a_torch_file(tmp_path, tensors):
    import torch

    path, beside = tmp_path / "x.pth", tmp_path / "x.pth.json"
    torch.save(tensors, path)
    beside.write_text("{")
    refused(path, f"^{beside}: damaged, not JSON")
    beside.write_text('{"version": 5}')
    refused(path, f"^{path}: version=5 is not text")


@pytest.mark.parametrize("value", [-1, 0, float("nan"), True])
def test_max_depth_of_a_wrong_type(tmp_path, value):
    path = tmp_path / "x.safetensors"
    refused(path, f"^{path}: max_depth=.* is not a number above 0", version="v2", max_depth=value)


BACKBONE = {"model_type": "dinov2", "out_indices": [1, 2, 3, 4], "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "damaged, not JSON"),
        ("[]", "a JSON list and not an object"),
        (DEEP, "the JSON is nested too deeply"),
        (f'{{"a": "{"x" * (1 << 24)}"}}', "more than 17 MB of JSON"),
        ({"encoder": 5}, "variant=5 is not text"),
        ({"backbone_config": [1]}, r"backbone_config=\[1\] is not an object"),
        ({"backbone_config": {"out_indices": "abc"}}, "does not list the tapped blocks"),
        ({"backbone_config": {"out_features": ["stem"]}}, "does not list the tapped blocks"),
        ({"backbone_config": {"out_features": 7}}, "does not list the tapped blocks"),
        ({"backbone_config": BACKBONE | {"num_hidden_layers": "x", "out_indices": [-1]}},
         "does not list the tapped blocks"),
        ({"depth_estimation_type": "metric", "max_depth": "20"}, "max_depth='20' is not a number"),
    ],
)  # fmt: skip
def test_config_files(tmp_path, config, message):
    write(tmp_path / "model.safetensors", {"embeddings.cls_token": np.zeros((1, 1, 128))})
    text = (
        config if isinstance(config, str) else json.dumps({"model_type": "depth_anything"} | config)
    )
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, f"^{tmp_path}/config.json.*: .*{message}")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ("{", ValueError, "damaged, not JSON"),
        (DEEP, ValueError, "the JSON is nested too deeply"),
        ({}, ValueError, "no 'weight_map'"),
        ({"weight_map": 5}, ValueError, "no 'weight_map'"),
        ({"weight_map": {"a": 5}}, ValueError, "the file '5' is not a .safetensors file in the"),
        ({"weight_map": {"a": "../x.safetensors"}}, ValueError, r"'\.\./x.safetensors' is not"),
        ({"weight_map": {"a": "/x.safetensors"}}, ValueError, "'/x.safetensors' is not"),
        ({"weight_map": {"a": "b.safetensors"}}, FileNotFoundError, "names 'b.safetensors', which"),
    ],
)
def test_index_files(tmp_path, index, error, message):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(error, match=f"^{path}: .*{message}"):
        pretrained.load(str(tmp_path))


def test_a_card_in_any_encoding(tmp_path, official):
    write(tmp_path / "model.safetensors", official)
    (tmp_path / "README.md").write_bytes(b"---\r\nlicense: MIT\r\n---\r\n\xff\xfe")
    assert pretrained.load(str(tmp_path), version="v2").licence == "MIT"


@pytest.mark.parametrize(
    "source", ["depth-anything/Video-Depth-Anything-Small", "depth-anything/DA3-SMALL"]
)
def test_repositories_of_other_networks(source, monkeypatch):
    monkeypatch.setattr(released, "fetch", None)  # not asked
    refused(source, f"^{source}: another network than Depth Anything V1 or V2")


@pytest.mark.parametrize(
    "source", ["http://a.org/x.pth", "https://huggingface.co/a/b", "file:///x.pth", "hf://a/b"]
)
def test_addresses_are_refused(source):
    refused(source, f"^{source}: addresses are not fetched")
