"""A folder for the Hub: transformers loads it, and huggingface_hub reads its card's metadata."""

import dataclasses
import math

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import export, licences, model_card, orbax_io, pretrained
from depth_anything_jax.checkpoints.bundle import Weights
from depth_anything_jax.data import transforms
from depth_anything_jax.evaluation.report import model_index, tables
from depth_anything_jax.models import VARIANTS, Variant
from tools import export_torch

TINY = Variant(64, 4, 2, 256, 16, (8, 16, 24, 32), (0, 1, 2, 3), grid=4)
V2 = "depth-anything/Depth-Anything-V2-Large"
CHAIN = [
    {"role": "initial weights", "source": "facebook/dinov2-small", "licence": "Apache-2.0"},
    {"role": "frozen encoder", "source": "facebook/dinov2-small", "licence": "Apache-2.0"},
    {"role": "teacher", "source": V2, "licence": "CC-BY-NC-4.0"},
]


@pytest.fixture(autouse=True)
def small_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


def weights(chain=(), **fields):
    known = dict(
        params={}, variant="tiny", version="v2", head="relative", max_depth=None, licence=None,
        source="run", parts="all", input=transforms.OFFICIAL_INPUT,
    )  # fmt: skip
    return Weights(**{**known, "metadata": {"licence_chain": list(chain)}, **fields})


def row(checkpoint, name, **values):
    """A row as `tables.rows` makes it."""
    about = dict(
        checkpoint=checkpoint, kind="disparity-affine", view="disparity-affine", protocol="da",
        reader=name, hash="0a1b2c3d", read=654, split=654, set=name, images=654, skipped=0,
        notes=[], pairs=0, ties=0, published=[], not_compared=[],
    )  # fmt: skip
    return {**about, **dict.fromkeys(tables.COLUMNS, math.nan), **values}


@pytest.fixture
def scores(tmp_path):
    rows = [
        row("runs/student", "nyu", abs_rel=0.0531234, delta1=0.971),
        row("runs/student", "nyu", abs_rel=0.06, protocol="midas", hash="ffff0000"),
        row("runs/student", "nyu", abs_rel=0.3, corruption="fog", severity=3),
        row("runs/student", "da2k", accuracy=0.95, pairs=9),
        row("runs/student", "da2k/indoor", accuracy=0.9, pairs=4),
        row("runs/student", "rgbd:own/m.json?datasets=hall", abs_rel=0.1),
        row("baseline:mean", "nyu", abs_rel=0.3),
    ]
    (tmp_path / "scores").mkdir()
    tables.write(tmp_path / "scores", rows, [])
    return tmp_path / "scores"


def test_a_folder_for_the_hub(tmp_path, scores, capsys):
    """Exported by the program, drawn by transformers, its card read by huggingface_hub."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tests.helpers import reference_model

    images = np.random.default_rng(1).normal(size=(1, 56, 56, 3)).astype(np.float32)
    reference_model.random_model(TINY, images).save_pretrained(tmp_path / "start")
    found = pretrained.load(str(tmp_path / "start"))
    found = dataclasses.replace(found, metadata={"licence_chain": CHAIN})
    run, folder = str(tmp_path / "run"), tmp_path / "indoors"
    orbax_io.save_params(run, found.params, export.describe(found))
    more = ["--scores", str(scores), "--scored-as", "runs/student"]
    export_torch.main([run, str(folder), "--layout", "hf", "--card", *more])

    upload = f'upload_folder(repo_id="OWNER/NAME", folder_path="{folder}")'
    assert f"to upload it: huggingface_hub.{upload}\n" in capsys.readouterr().out
    files = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(p.name for p in folder.iterdir()) == files
    model, params = pretrained.load_pretrained(run)
    ours = np.asarray(jax.jit(model.apply)({"params": params}, jnp.asarray(images)))
    theirs = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    with torch.no_grad():
        depth = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).predicted_depth.numpy()
    assert np.abs(ours - depth).max() <= 1e-5 * np.ptp(depth)
    transformers.AutoImageProcessor.from_pretrained(folder)

    card = huggingface_hub.ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-nc-4.0", "transformers")
    assert data.pipeline_tag == "depth-estimation" and data.base_model == ["facebook/dinov2-small"]
    assert data.model_name == "indoors" and "relative" in data.tags
    for one, other in zip(
        data.eval_results,
        model_index.results(model_index.read(scores, "runs/student")),
        strict=True,
    ):
        assert one == other
    nyu = "protocol da 0a1b2c3d, scored as disparity-affine"
    numbers = [
        (r.dataset_name, r.dataset_config, r.metric_type, r.metric_value) for r in data.eval_results
    ]
    assert numbers == [
        ("nyu", nyu, "abs_rel", 0.053123),
        ("nyu", nyu, "delta1", 0.971),
        ("nyu", nyu.replace("da 0a1b2c3d", "midas ffff0000"), "abs_rel", 0.06),
        ("da2k", nyu, "accuracy", 0.95),
        ("rgbd:own/m.json?datasets=hall", nyu, "abs_rel", 0.1),
    ]
    types = [r.dataset_type for r in data.eval_results]
    assert types == ["nyu", "nyu", "nyu", "da2k", "rgbd-own-m.json"]
    for text in (f"| teacher | {V2} | CC-BY-NC-4.0 |", "| fog 3 |", "larger is nearer", "indoor"):
        assert text in card.text, text
    assert 'huggingface_hub.upload_folder(repo_id="OWNER/NAME", folder_path=".")' in card.text
    assert "baseline" not in card.text
    again = pretrained.load(str(folder))
    assert again.metadata["licence_chain"] == CHAIN and again.licence == "CC-BY-NC-4.0"


def test_what_a_lineage_starts_from():
    port = "depth-anything/Depth-Anything-V2-Large-hf"
    assert model_card.base_models(CHAIN) == ["facebook/dinov2-small"]
    assert model_card.base_models([{**CHAIN[2], "role": "weights"}]) == [port]
    assert (
        model_card.base_models(licences.extend([], "initial weights", "runs/teacher", "MIT")) == []
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "inverse depth up to scale and shift"),
        ({"head": "sigmoid", "max_depth": 20.0}, "depth in metres, at most 20."),
        ({"head": "sigmoid", "max_depth": 80.0, "focal": 500.0}, "multiply by f / 500 for metres"),
    ],
)
def test_cards_say_what_comes_out(fields, text):
    card = huggingface_hub.ModelCard(model_card.card(weights(**fields), "x", base_model=["a/b"]))
    assert text in card.text and card.data.eval_results is None
    assert ("metric" in card.data.tags) == ("head" in fields)
    assert card.data.license == "other" and card.data.license_name == "unknown"
    assert card.data.base_model == ["a/b"]


def test_scores_that_are_not_there(tmp_path, scores):
    with pytest.raises(ValueError, match="of runs/student, baseline:mean, and not of 'run'"):
        model_index.read(scores, "run")
    assert len(model_index.read(scores / "scores.json", "baseline:mean")) == 1
    with pytest.raises(FileNotFoundError, match=r"evaluate --out FOLDER"):
        model_index.read(tmp_path / "none")
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match="no 'sets'"):
        model_index.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "official", "--card"], "--card is for --layout hf"),
        (["--layout", "hf", "--scores", "x"], "--scores, --scored-as and --base-model are for"),
        (["--layout", "hf", "--base-model", "a/b"], "are for --card"),
    ],
)
def test_options_that_do_not_belong_together(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        export_torch.main(["demo-encoder", str(tmp_path / "x"), *options])
    assert message in capsys.readouterr().err


def test_an_encoder_has_no_card(tmp_path):
    with pytest.raises(SystemExit, match="is an encoder alone"):
        export_torch.main(["demo-encoder", str(tmp_path / "x"), "--layout", "hf", "--card"])
    assert not (tmp_path / "x").exists()
