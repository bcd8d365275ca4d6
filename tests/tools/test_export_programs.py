"""Programs out: StableHLO and ONNX compute what the model computes, without this package."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import licences, pretrained
from depth_anything_jax.checkpoints.bundle import Weights, bundle_of
from depth_anything_jax.data import transforms
from depth_anything_jax.models import VARIANTS, Variant, build
from tests import parity
from tests.helpers.small_networks import random_leaf
from tools import export_onnx, export_stablehlo

# Trained at 56 pixels, where positions are not resized; other sizes test that they are.
TINY = Variant(64, 4, 2, 256, 16, (8, 16, 24, 32), (0, 1, 2, 3), grid=4)
CHAIN = licences.extend([], "teacher", "some/teacher", "CC-BY-NC-4.0")


@pytest.fixture(autouse=True)
def small_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


def random_weights(max_depth=None):
    shapes = jax.eval_shape(build(TINY).init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    params = jax.tree_util.tree_map_with_path(random_leaf, shapes["params"])
    head = "relative" if max_depth is None else "sigmoid"
    return Weights(
        params=jax.tree.map(np.asarray, params),
        variant="tiny",
        version="v2",
        head=head,
        max_depth=max_depth,
        licence="CC-BY-NC-4.0",
        source="run",
        parts="all",
        metadata={"licence_chain": CHAIN},
        input=transforms.OFFICIAL_INPUT,
    )


def images(*shape):
    return np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)


def told(folder, kind, unit, max_depth):
    """metadata.json, after what both programs must say has been checked."""
    metadata = json.loads((folder / "metadata.json").read_text())
    output = metadata["output"]
    assert (output["kind"], output["unit"], output["max_depth"]) == (kind, unit, max_depth)
    assert metadata["input"]["mean"] == [0.485, 0.456, 0.406]
    assert metadata["licence"] == "CC-BY-NC-4.0" and metadata["licence_chain"] == CHAIN
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "| teacher | some/teacher | CC-BY-NC-4.0 |" in card
    return metadata


ELSEWHERE = """
import sys
for name in ("depth_anything_jax", "flax", "torch"):
    sys.modules[name] = None
import jax.export, numpy as np
from safetensors.numpy import load_file
with open("model.stablehlo", "rb") as file:
    program = jax.export.deserialize(file.read())
params = load_file("params.safetensors")
for name in ("one", "three"):
    np.save(name + "_depth.npy", program.call(params, np.load(name + ".npy")))
"""


@pytest.mark.parametrize(
    ("max_depth", "kind", "unit"),
    [
        (None, "relative inverse depth", None),
        pytest.param(12.5, "metric depth", "metre", marks=pytest.mark.nightly),
    ],
)
def test_stablehlo_runs_without_the_package(tmp_path, max_depth, kind, unit):
    found, folder = random_weights(max_depth), tmp_path / "x"
    export_stablehlo.export_stablehlo(found, str(folder), (56, 84))
    metadata = told(folder, kind, unit, max_depth)
    assert metadata["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert metadata["input"]["shape"] == ["batch", 56, 84, 3]
    batches = {"one": images(1, 56, 84), "three": images(3, 56, 84)}
    for name, batch in batches.items():
        np.save(folder / f"{name}.npy", batch)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = jax.jit(bundle_of(found).network.apply)
    for name, batch in batches.items():
        want = run({"params": found.params}, batch)
        have = np.load(folder / f"{name}_depth.npy")
        assert parity.relative_error(have, want) <= parity.OUTPUT_FLOAT32["vits"]


def test_a_custom_call_is_refused():
    """The text of a real program that has one: LAPACK's QR, which only CPUs call so."""
    program = jax.export.export(jax.jit(jnp.linalg.qr), platforms=("cpu",))
    module = program(jax.ShapeDtypeStruct((3, 3), jnp.float32)).mlir_module()
    with pytest.raises(ValueError, match="lapack_.*which not every platform has"):
        export_stablehlo.refuse_custom_calls(module)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--height", "56", "--width", "60"], "56 x 60 pixels.*multiples of 14"),
        (["--size", "-14"], "-14 x -14 pixels.*multiples of 14"),
        (["--size", "0"], "0 x 0 pixels.*multiples of 14"),
    ],
)
def test_stablehlo_sizes(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: random_weights())
    with pytest.raises(SystemExit, match=message):
        export_stablehlo.main(["run", str(tmp_path / "x"), *arguments])
    assert not list(tmp_path.iterdir())


def test_stablehlo_takes_one_kind_of_size(tmp_path, capsys):
    for arguments in (["--height", "56"], ["--size", "56", "--height", "56", "--width", "56"]):
        with pytest.raises(SystemExit):
            export_stablehlo.main(["run", str(tmp_path / "x"), *arguments])
        assert "give --size, or --height and --width" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is there already"):
        export_stablehlo.export_stablehlo(random_weights(), str(tmp_path), (56, 56))
    with pytest.raises(FileExistsError, match="is there already"):
        export_onnx.export_onnx(random_weights(), str(tmp_path))


@pytest.mark.parametrize(
    ("max_depth", "kind", "unit"),
    [
        (12.5, "metric depth", "metre"),
        pytest.param(None, "relative inverse depth", None, marks=pytest.mark.nightly),
    ],
)
def test_onnx_at_three_sizes(tmp_path, max_depth, kind, unit):
    pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found, folder = random_weights(max_depth), tmp_path / "x"
    errors = export_onnx.export_onnx(found, str(folder))
    assert list(errors) == [(56, 56), (56, 126), (42, 56)]
    assert max(errors.values()) <= export_onnx.TOLERANCE
    metadata = told(folder, kind, unit, max_depth)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    inside = json.loads(session.get_modelmeta().custom_metadata_map["depth_anything_jax"])
    assert {**inside, "program": metadata["program"]} == metadata
    # A fourth size, by what the card says; sides of 60 pixels are an error, not a picture.
    batch = images(3, 98, 42)
    (depth,) = session.run(None, {"images": batch.transpose(0, 3, 1, 2).copy()})
    want = jax.jit(bundle_of(found).network.apply)({"params": found.params}, batch)
    assert parity.relative_error(depth, want) <= export_onnx.TOLERANCE
    for size in ((60, 56), (56, 60)):
        with pytest.raises(Exception, match="Reshape"):
            session.run(None, {"images": np.zeros((1, 3, *size), np.float32)})

    # What the comparison is for: other weights are another function, and nothing is kept.
    monkey = dataclasses.replace(found, params=jax.tree.map(lambda x: x * 1.01, found.params))
    other = export_onnx.compare(monkey, folder / "model.onnx")
    assert min(other.values()) > 10 * export_onnx.TOLERANCE


def test_onnx_that_is_off_is_not_kept(tmp_path, monkeypatch):
    pytest.importorskip("torch")

    class Program:
        def __init__(self):
            self.model = self
            self.metadata_props = {}

        def save(self, path, external_data):
            assert not external_data
            with open(path, "w") as file:
                file.write("graph")

    monkeypatch.setattr(export_onnx, "to_onnx", lambda _: Program())
    monkeypatch.setattr(
        export_onnx, "compare", lambda *_: {(56, 56): 1e-6, (56, 126): float("nan")}
    )
    with pytest.raises(ValueError, match="off by.*nan.*nothing is kept"):
        export_onnx.export_onnx(random_weights(), str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


def test_onnx_names_what_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"depth_anything_jax\[onnx\]"):
        export_onnx.export_onnx(random_weights(), str(tmp_path / "x"))
    other = dataclasses.replace(random_weights(5.0), head="bins")
    with pytest.raises(ValueError, match="head='bins'.*relative, sigmoid only"):
        export_onnx.export_onnx(other, str(tmp_path / "x"))
