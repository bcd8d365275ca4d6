"""Every device program, run whole on eight devices as a TPU runs it, and none left out.

"As a TPU": tests/helpers/as_tpu.py. tests/aot/test_topologies.py compiles them for real topologies.
"""

import ast
import pathlib

import cv2
import jax
import numpy as np
import pytest

from depth_anything_jax import evaluate, models, pseudo_label, train
from depth_anything_jax.checkpoints import export, orbax_io, pretrained
from depth_anything_jax.data import registry
from depth_anything_jax.inference.model import DepthAnything
from depth_anything_jax.models import depth_anything
from depth_anything_jax.parallel import device_programs, sharding
from depth_anything_jax.training import logger
from depth_anything_jax.training.init import compile_unoptimised, init_params
from tests.helpers import as_tpu
from tests.helpers.device_program_tests import COMPILED_BY, RUN_BY
from tests.helpers.tiny_runs import SIZE, TINY, shipped

PACKAGE = pathlib.Path(device_programs.__file__).parent.parent
TESTS = pathlib.Path(__file__).parents[1]
DEVICES = 8


@pytest.fixture(scope="module", autouse=True)
def a_slice_of_eight_chips():
    """Tiny networks, compiled quickly."""
    with pytest.MonkeyPatch.context() as patch:
        as_tpu.behave(patch.setattr)
        patch.setitem(depth_anything.VARIANTS, "tiny", TINY)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def ran(monkeypatch):
    """{name: numbers of devices} of the programs that ran in this test."""
    found: dict[str, set[int]] = {}
    call, lower = device_programs.DeviceProgram.__call__, device_programs.DeviceProgram.lower

    def note(method):
        def noted(self, *args):
            found.setdefault(self.name, set()).add(self.mesh.size)
            return method(self, *args)

        return noted

    monkeypatch.setattr(device_programs.DeviceProgram, "__call__", note(call))
    monkeypatch.setattr(device_programs.DeviceProgram, "lower", note(lower))
    return found


# No program is left out


def calls(tree, name):
    """Calls of a function by this name, as in `f(…)` and `module.f(…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            if name in (called, getattr(called, "id", None)):
                yield node


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_each_device_program_is_run_here_and_compiled_for_topologies():
    names = []
    for _, tree in modules():
        for call in calls(tree, "device_program"):
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)
            names.append(call.args[0].value)
    assert len(names) == len(set(names))
    assert set(names) == RUN_BY.keys() == COMPILED_BY.keys()
    assert set(RUN_BY.values()) <= globals().keys()
    there = ast.parse((TESTS / "aot" / "test_topologies.py").read_text(encoding="utf-8"))
    assert set(COMPILED_BY.values()) <= {getattr(n, "name", "") for n in there.body}


def test_nothing_else_makes_programs():
    for path, tree in modules():
        found = [n for f in ("jit", "pjit", "pmap") for n in calls(tree, f)]
        names = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "jit"]
        names += [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom) and {a.name for a in n.names} & {"jit", "pjit", "pmap"}
        ]
        # Attention's is a call inside programs that keeps its name when they are traced.
        fine = ("parallel/device_programs.py", "models/attention.py")
        assert not (found or names) or path in fine, path
        assert path != "models/attention.py" or len(names) == 1


# Training


def student(folder, variant="vits", **fields):
    files = {
        "data.unlabelled": (f"folder:{folder}",), "data.labels": (f"{folder}?suffix=_depth",),
        "teacher": "files", "batch_size": 24, "loss.feat_margin": 1.0, "frozen_encoder": "x",
    }  # fmt: skip
    return shipped("student", variant, **files | fields)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos, each with a label of another tool."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        image = cv2.resize(rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8), (40, 32))
        assert cv2.imwrite(str(folder / f"{i}.png"), image)
        np.save(folder / f"{i}_depth.npy", image.mean(-1))
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tiny relative network, as a run of ours."""
    folder = tmp_path_factory.mktemp("released")
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    init = init_params(models.build(TINY), shipped("teacher", "vitl"))
    params = compile_unoptimised(init, mesh, None)(jax.random.key(0))
    about = {"variant": "tiny", "version": "v2", "head": "relative", "licence_chain": []}
    orbax_io.save_params(folder, jax.device_get(params), about)
    return str(folder)


def check(folder, *, parts):
    """A run that drew, scored and saved; its losses are numbers."""
    rows = logger.read_metrics(folder)
    losses = [r for r in rows if "loss/total" in r]
    assert [r["step"] for r in losses] == [1, 2]
    for name in ("total", *parts):
        assert all(np.isfinite(r[f"loss/{name}"]) for r in losses)
    assert any(k.startswith("eval/") for r in rows for k in r)
    assert {p.name for p in (folder / "strips").iterdir()} == {
        f"{part}_{step:08d}.png" for part in set(parts) - {"features"} for step in (1, 2)
    }


def test_a_teacher(tmp_path, ran):
    c = shipped("teacher", "vitl", batch_size=8, ema_decay=0.9, **{"mesh.fsdp": 2})
    train.train(c, str(tmp_path))
    check(tmp_path, parts=("labelled",))
    trained = {"train.init", "train.step", "train.strips", "train.gather"}
    assert {k: v for k, v in ran.items() if k in trained} == dict.fromkeys(trained, {DEVICES})
    assert ran["inference.predict"] == {DEVICES}


@pytest.mark.parametrize("variant", ["vits", "v2"])
def test_a_student(variant, tmp_path, photos, released, ran):
    more = {"batch_size": 8, "data.labelled": ()} if variant == "v2" else {}
    c = student(photos, variant, frozen_encoder=released, init_from=released, **more)
    train.train(c, str(tmp_path), audit_steps=1)
    parts = ("labelled", "unlabelled", "features")
    check(tmp_path, parts=parts if variant == "vits" else parts[1:])
    assert ran["train.audit"] == {DEVICES}


def test_a_student_of_an_online_teacher(tmp_path, photos, released, ran):
    more = {"teacher": "online", "teacher_from": released, "data.labels": (), "accumulation": 2}
    c = student(photos, frozen_encoder=released, **more | {"batch_size": 48})
    train.train(c, str(tmp_path))
    check(tmp_path, parts=("labelled", "unlabelled", "features"))


@pytest.mark.parametrize("head", ["sigmoid", "bins"])
def test_metres(head, tmp_path, released, ran):
    more = {"input_size": (SIZE, SIZE)} if head == "bins" else {}
    c = shipped("metric", f"demo,head={head}", batch_size=8, **more)
    c.init_from, c.init_parts = released, "relative" if head == "bins" else "encoder"
    train.train(c, str(tmp_path))
    check(tmp_path, parts=("labelled",))


# Labels, scores, pictures


def test_labels_scores_and_pictures(tmp_path, photos, released, ran):
    source = registry.make(registry.parse(f"folder:{photos}"))
    done = pseudo_label.label(released, source, tmp_path / "labels", size=SIZE, batch_size=8)
    assert done.images == 6
    student_of_them = student(
        photos, teacher="records", frozen_encoder=released, **{
            "data.labels": (str(tmp_path / "labels"),), "log.images": 0, "eval.every": 0,
        },
    )  # fmt: skip
    train.train(student_of_them, str(tmp_path / "student"))
    opened = evaluate.open_sets([], [f"scenes:A?count=3&size={SIZE}"])
    for changed in ({}, {"flip": True}):
        ((rows, _),) = evaluate.evaluate(
            str(tmp_path / "student"), opened, protocol="da", limit=0,
            changed={"input_size": SIZE, **changed},
        )  # fmt: skip
        assert np.isfinite(rows[0]["abs_rel"])
    model = DepthAnything.from_pretrained(str(tmp_path / "student"))
    pictures = [cv2.imread(str(photos / f"{i}.png")) for i in range(5)]
    alone = [model(p, input_size=SIZE).depth for p in pictures]
    assert ran["inference.predict"] == {1, DEVICES}
    for one, other in zip(alone, model(pictures, input_size=SIZE), strict=True):
        # float32 in another order: another number of rows in each product
        np.testing.assert_allclose(one, other.depth, rtol=0, atol=1e-5 * np.ptp(one))
    large = cv2.resize(pictures[0], (90, 70))
    assert np.isfinite(model(large, input_size=SIZE, tile=40).depth).all()


def test_a_file_that_lacks_tensors(tmp_path, released, ran):
    found = pretrained.load(released)
    path = tmp_path / "part.safetensors"
    export.export(found, str(path), layout="official")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    del tensors["pretrained.patch_embed.proj.weight"]
    save_file(tensors, path)
    filled = pretrained.load(str(path), version="v2", allow_missing="patch_embed")
    assert np.abs(filled.params["encoder"]["patch_embed"]["kernel"]).max() > 0
    assert ran["weights.fill"] == {1}
