"""What a run starts from: weights in their places, licences that nothing loses, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from depth_anything_jax import models
from depth_anything_jax.checkpoints import convert, licences, orbax_io, pretrained, readers
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.data.pseudo_labels import label_codec
from depth_anything_jax.data.pseudo_labels.label_store import LabelWriter
from depth_anything_jax.models.depth_anything import NETWORKS
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import init, optim
from depth_anything_jax.training.step import new_state
from depth_anything_jax.utils import param_paths
from tests.helpers.demo_configs import small_student
from tests.helpers.small_networks import random_params

FREE, NOT_FREE = "Apache-2.0", "CC-BY-NC-4.0"
HISTORY = licences.extend([], "teacher", "depth-anything/Depth-Anything-V2-Large", NOT_FREE)
FACTS = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def params():
    """Of the demo's model, numpy."""
    return jax.tree.map(np.asarray, random_params(models.build("demo", scan=False), 112))


def train_state(params, step=0):
    """A state with moments that are not zero."""
    tx = optim.make(small_student().optim, params, 10)
    new = new_state(jax.tree.map(jnp.asarray, params), tx, ema=False)
    moments = jax.tree.map(lambda x: x + jnp.ones_like(x), new.opt_state)
    return dataclasses.replace(new, step=jnp.int32(step), opt_state=moments)


def zeros(params, mesh):
    """A state at its start, all parameters 0, and its shapes."""
    tx = optim.make(small_student().optim, params, 10)
    new = new_state(jax.tree.map(jnp.zeros_like, params), tx, ema=False)
    layout = sharding.tree_shardings(new, mesh)
    new = jax.device_put(new, layout)
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), new, layout
    )
    return new, shapes


@pytest.fixture(scope="module")
def run(tmp_path_factory, params):
    """The folder of a run that stands at step 7, with a licence that forbids."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    checkpoints = orbax_io.Checkpoints(folder / "checkpoints")
    meta = {**FACTS, "licence_chain": HISTORY}
    checkpoints.save(7, train_state(params, step=7), meta, wait=True)
    checkpoints.close()
    return str(folder)


def assert_same(a, b):
    a, b = param_paths.leaves_by_path(a), param_paths.leaves_by_path(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Weights


def test_all_of_a_run_goes_on_where_it_stood(run, params, mesh):
    c = small_student(init_from=run, init_parts="all")
    found, _ = init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    assert int(found.step) == 7
    assert_same(found.params, params)
    assert_same(found.opt_state, train_state(params).opt_state)


@pytest.mark.parametrize("parts", ["params", "encoder"])
def test_parameters_of_a_run_start_a_new_one(run, params, mesh, parts):
    c = small_student(init_from=run, init_parts=parts)
    fresh, shapes = zeros(params, mesh)
    found, _ = init.load_initial(c, fresh, shapes, {"licence_chain": []})
    assert int(found.step) == 0
    taken = {"params": ("encoder", "decoder"), "encoder": ("encoder",)}[parts]
    for name in ("encoder", "decoder"):
        assert_same(found.params[name], (params if name in taken else fresh.params)[name])
    assert_same(found.opt_state, fresh.opt_state)


# Licences


@pytest.mark.parametrize("parts", ["all", "params", "encoder"])
def test_the_history_of_the_initial_weights_and_the_new_runs_own_are_kept(run, params, mesh, parts):
    here = licences.extend([], "frozen encoder", "facebook/dinov2-small", FREE)
    c = small_student(init_from=run, init_parts=parts)
    _, meta = init.load_initial(c, *zeros(params, mesh), {"licence_chain": here})
    itself = {"role": "initial weights", "source": run, "licence": NOT_FREE}
    chain = meta["licence_chain"]
    assert sorted(map(str, chain)) == sorted(map(str, [*HISTORY, *here, itself]))
    assert licences.combined(chain) == NOT_FREE


def test_a_continued_run_takes_up_new_licences_and_forgets_none():
    old = {"step": 3, "licence_chain": licences.extend([], "initial weights", "x", FREE)}
    new = licences.extend(old["licence_chain"][:], "teacher", "labels of somebody", NOT_FREE)
    assert init.continued(old, {"licence_chain": new})["licence_chain"] == new
    assert init.continued({"licence_chain": new}, {"licence_chain": []})["licence_chain"] == new
    assert licences.merge(new, new, new[::-1]) == new


def test_teacher_and_labels_enter_with_their_histories(run, tmp_path, mesh):
    c = small_student(teacher="online", teacher_from=run)
    _, _, meta = init.networks(c, mesh)
    teacher = {"role": "teacher", "source": run, "licence": NOT_FREE}
    assert [x for x in meta["licence_chain"] if x["role"] == "teacher"] == [*HISTORY, teacher]
    sources = [x["source"] for x in meta["licence_chain"] if x["role"] == "frozen encoder"]
    assert sources == ["demo-encoder"]

    writer = LabelWriter(
        tmp_path,
        {"source": {"count": 1, "keys_sha256": ""}, "shard_size": 1},
        {"licence_chain": HISTORY},
    )
    writer.write_shard(0, [label_codec.encode_invalid("a", "x")], {"a": "x"})
    writer.finish()
    _, _, meta = init.networks(small_student(**{"data.labels": (str(tmp_path),)}), mesh)
    assert HISTORY[0] in meta["licence_chain"]


def test_weights_without_a_history_stand_in_the_chain_once(tmp_path, params, mesh):
    orbax_io.save_params(tmp_path / "mine", params, {**FACTS, "licence": "MIT"})
    path = str(tmp_path / "mine")
    assert pretrained.load(path).metadata["licence_chain"][0]["role"] == "weights"
    c = small_student(init_from=path, init_parts="params")
    _, meta = init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    assert meta["licence_chain"] == licences.extend([], "initial weights", path, "MIT")


# Refusals, and teachers that lack something


@pytest.fixture
def metric(tmp_path, params):
    facts = {**FACTS, "head": "sigmoid", "max_depth": 20.0}
    orbax_io.save_params(tmp_path / "metric", params, facts)
    return str(tmp_path / "metric")


SIGMOID = {"model.head": "sigmoid", "model.max_depth": 20.0}


@pytest.mark.parametrize("source", ["run", "metric"])
def test_all_but_the_last_layer_starts_a_metric_head(request, source, params, mesh):
    c = small_student(init_from=request.getfixturevalue(source), init_parts="decoder", **SIGMOID)
    found, _ = init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    want = param_paths.leaves_by_path(params)
    for path, x in param_paths.leaves_by_path(found.params).items():
        last = path in ("decoder/output_conv2_2/kernel", "decoder/output_conv2_2/bias")
        np.testing.assert_array_equal(x, 0 if last else want[path], err_msg=path)


def test_the_relative_network_is_taken_whole_and_only_that(run, metric, params, mesh):
    fields = {"model.head": "bins", "model.max_depth": 10.0, "init_parts": "relative"}
    found, meta = init.load_initial(
        small_student(init_from=run, **fields), *zeros(params, mesh), {"licence_chain": []}
    )
    assert_same(found.params, params)
    assert meta["licence_chain"][-1]["role"] == "initial weights"
    with pytest.raises(ValueError, match="has a sigmoid head, and init_parts='relative'"):
        init.load_initial(
            small_student(init_from=metric, **fields), *zeros(params, mesh), {"licence_chain": []}
        )


def test_a_sigmoid_starts_from_the_decoder_under_a_bins_head(params, mesh, monkeypatch):
    loaded = Weights(
        params={**params, "bins": {"conv2": {"bias": np.zeros(3)}}}, variant="demo", version="v2",
        head="bins", max_depth=10.0, licence=None, source="x", parts="all",
        metadata={"licence_chain": []}, input=transforms.OFFICIAL_INPUT,
    )  # fmt: skip
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: loaded)
    c = small_student(init_from="x", init_parts="decoder", **SIGMOID)
    found, _ = init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    got, want = (param_paths.leaves_by_path(p) for p in (found.params, params))
    np.testing.assert_array_equal(
        got["decoder/output_conv1/kernel"], want["decoder/output_conv1/kernel"]
    )
    assert not got["decoder/output_conv2_2/kernel"].any()


@pytest.mark.parametrize(("field", "value"), [("model.max_depth", 80.0), ("camera.focal", 500.0)])
@pytest.mark.parametrize("parts", ["params", "all"])
def test_a_metric_decoder_means_its_own_metres(metric, params, mesh, parts, field, value):
    c = small_student(init_from=metric, init_parts=parts, **{**SIGMOID, field: value})
    with pytest.raises(ValueError, match=f"{field}=.*the same output would mean other metres"):
        init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})


def test_the_cure_for_other_metres_is_one_that_the_head_has():
    for head, cure in (("bins", "init_parts='relative'"), ("sigmoid", "init_parts='decoder'")):
        c = small_student(**{**SIGMOID, "model.head": head}, init_from="x")
        with pytest.raises(ValueError, match=f"set model.max_depth=80.0, or .*{cure}"):
            init._check_head(c, head, 80.0, None)


def test_range_and_focal_length_are_in_the_metadata(mesh):
    c = small_student(unlabelled_ratio=0, **{**SIGMOID, "camera.focal": 250.0})
    networks, _, meta = init.networks(c, mesh)
    assert (networks.student.decoder.head, networks.student.decoder.max_depth) == ("sigmoid", 20.0)
    assert (meta["head"], meta["max_depth"], meta["focal"]) == ("sigmoid", 20.0, 250.0)


@pytest.mark.parametrize("parts", ["params", "all"])
def test_a_decoder_starts_under_its_own_head_only(metric, params, mesh, parts):
    c = small_student(init_from=metric, init_parts=parts)
    with pytest.raises(ValueError, match=r"has a sigmoid head, model.head='relative'"):
        init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})


def test_the_encoder_of_a_metric_model_starts_any_head(metric, params, mesh):
    c = small_student(init_from=metric, init_parts="encoder")
    found, _ = init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    assert_same(found.params["encoder"], params["encoder"])


def test_the_encoder_of_another_version_is_taken_with_a_warning(run, params, mesh, caplog):
    c = small_student(init_from=run, init_parts="encoder")
    init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    assert "model.version" not in caplog.text
    c = small_student(init_from=run, init_parts="encoder", **{"model.version": "v1"})
    init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})
    assert f"init_from={run!r} holds weights of a v2 network, and model.version='v1'" in caplog.text
    assert "set --config.model.version=v2, unless v1 is meant" in caplog.text


def test_a_decoder_of_another_version_is_refused(run, params, mesh):
    for parts, message in (
        ("params", "in a training config set model.version='v2'"),
        ("all", "set --config.model.version=v2"),
    ):
        c = small_student(init_from=run, init_parts=parts, **{"model.version": "v1"})
        with pytest.raises(ValueError, match=message):
            init.load_initial(c, *zeros(params, mesh), {"licence_chain": []})


def test_weights_of_another_size_are_refused_with_every_tensor(run, params, mesh):
    wide = jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), params)
    fresh, shapes = zeros(params, mesh)
    fresh = dataclasses.replace(fresh, params=wide)
    c = small_student(init_from=run, init_parts="params")
    with pytest.raises(ValueError, match="init_from=.* does not fit model.variant") as caught:
        init.load_initial(c, fresh, shapes, {"licence_chain": []})
    for name, x in param_paths.leaves_by_path(params).items():
        assert f"{name} {x.shape} (here {(2, *x.shape)})" in str(caught.value)


def test_a_frozen_encoder_of_another_kind_is_refused(mesh, monkeypatch):
    demo = models.VARIANTS["demo"]
    other = dataclasses.replace(demo.encoder, name="other", patch_size=16)
    monkeypatch.setitem(NETWORKS, "other", NETWORKS[demo.encoder.name])
    monkeypatch.setitem(models.VARIANTS, "other", dataclasses.replace(demo, encoder=other))
    c = small_student(**{"model.variant": "other", "frozen_encoder": "demo-encoder"})
    with pytest.raises(ValueError, match="'demo-encoder' is a dinov2, the student's encoder a oth"):
        init.networks(c, mesh)


def test_an_online_teacher_needs_a_decoder(mesh):
    c = small_student(teacher="online", teacher_from="demo-encoder")
    with pytest.raises(ValueError, match="demo-encoder holds an encoder alone"):
        init.networks(c, mesh)


def test_an_online_teacher_may_lack_what_the_config_allows(tmp_path, params, mesh):
    tensors = convert.to_torch(params, "official")
    del tensors["depth_head.resize_layers.3.weight"]
    path = tmp_path / "teacher.safetensors"
    notes = {readers.METADATA_KEY: json.dumps(FACTS)}
    save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, str(path), notes)
    fields = {"teacher": "online", "teacher_from": str(path)}
    with pytest.raises(convert.TensorMismatch, match="missing: depth_head.resize_layers.3.weight"):
        init.networks(small_student(**fields), mesh)
    allowed = {"allow_missing": r"resize_layers\.3", "fill_missing": "zeros"}
    _, frozen, _ = init.networks(small_student(**fields, **allowed), mesh)
    assert not frozen["teacher"]["decoder"]["resize_layers_3"]["kernel"].any()
    assert_same(frozen["teacher"]["encoder"], params["encoder"])
