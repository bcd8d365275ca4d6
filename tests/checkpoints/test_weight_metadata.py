"""What is found out about weights whose tensors do not say it: names, config files, licences."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from depth_anything_jax.checkpoints import (
    export,
    licences,
    pretrained,
    released,
    weight_metadata,
)
from depth_anything_jax.models import VARIANTS
from tests.helpers.weights_files import assert_holds, state_of, write


@pytest.fixture(scope="module")
def official():
    return state_of()


# --- what the tensors do not say


def test_version_has_to_be_known(tmp_path, official):
    path = write(tmp_path / "mine.safetensors", official)
    with pytest.raises(ValueError, match="pass version='v1' or version='v2'"):
        pretrained.load(path)
    assert pretrained.load(path, parts="encoder").version is None
    with pytest.raises(ValueError, match="version='v3' is unknown; choose one of v1, v2"):
        pretrained.load(path, version="v3")


def test_a_head_that_nothing_describes_is_relative_with_a_warning(tmp_path, official, caplog):
    path = write(tmp_path / "mine.safetensors", official)
    assert pretrained.load(path, version="v2").head == "relative"
    assert "taken for a relative model" in caplog.text
    loaded = pretrained.load(path, version="v2", max_depth=20)
    assert (loaded.head, loaded.max_depth) == ("sigmoid", 20.0)


def test_metadata_tells(tmp_path, official):
    facts = {"variant": "demo", "version": "v1", "head": "sigmoid", "max_depth": 80.0}
    path = write(tmp_path / "mine.safetensors", official, facts)
    loaded = pretrained.load(path)
    assert {name: getattr(loaded, name) for name in facts} == facts
    with pytest.raises(ValueError, match="max_depth=20 contradicts its metadata, which says 80.0"):
        pretrained.load(path, max_depth=20)
    with pytest.raises(ValueError, match="version='v2' contradicts its metadata"):
        pretrained.load(path, version="v2")


def test_the_sigmoid_heads_old_name(tmp_path, official):
    """Checkpoints written while there was one metric head."""
    facts = {"version": "v2", "head": "metric", "max_depth": 20.0}
    loaded = pretrained.load(write(tmp_path / "mine.safetensors", official, facts))
    assert (loaded.head, loaded.max_depth) == ("sigmoid", 20.0)


@pytest.mark.parametrize(
    ("facts", "arguments", "message"),
    [
        ({"version": "v2", "head": "sigmoid"}, {}, "metric head whose range is not in the file"),
        ({"version": "v2", "head": "relative"}, {"max_depth": 9}, "max_depth=9 for a relative"),
    ],
)
def test_range_of_the_head(tmp_path, official, facts, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(write(tmp_path / "mine.safetensors", official, facts), **arguments)


FREE, NOT_FREE = "Apache-2.0", "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("depth_anything_vits14.pth", ("vits", "v1", "relative", None, FREE)),
        ("depth_anything_vitl14.safetensors", ("vitl", "v1", "relative", None, FREE)),
        ("depth_anything_v2_vits.pth", ("vits", "v2", "relative", None, FREE)),
        ("depth_anything_v2_vitb_fp16.safetensors", ("vitb", "v2", "relative", None, NOT_FREE)),
        ("depth_anything_v2_metric_hypersim_vits.pth", ("vits", "v2", "sigmoid", 20, FREE)),
        ("depth_anything_v2_metric_vkitti_vitl.pth", ("vitl", "v2", "sigmoid", 80, NOT_FREE)),
        ("dinov2_vitg14_pretrain.pth", ("vitg", None, "relative", None, FREE)),
        (
            "Depth-Anything-V2-Large-hf/model.safetensors",
            ("vitl", "v2", "relative", None, NOT_FREE),
        ),
        ("Depth-Anything-V2-Metric-Outdoor-Base-hf", ("vitb", "v2", "sigmoid", 80, NOT_FREE)),
        ("depth-anything-base-hf/model.safetensors", ("vitb", "v1", "relative", None, FREE)),
        ("dinov2-giant", ("vitg", None, "relative", None, FREE)),
    ],
)
def test_known_names(name, facts):
    model = released.by_path(pathlib.PurePath("/somewhere", name))
    assert model is not None
    assert (model.variant, model.version, model.head, model.max_depth, model.licence) == facts


@pytest.mark.parametrize(
    "name", ["depth_anything_v2_vits_finetuned.pth", "my_dinov2_vits14_pretrain.pth", "vits.pth"]
)
def test_names_that_only_look_known(name):
    assert released.by_path(name) is None


def test_a_name_yields_to_an_argument(tmp_path, official, caplog):
    path = write(tmp_path / "depth_anything_v2_vits.safetensors", official)
    loaded = pretrained.load(path, version="v1", max_depth=5)
    assert (loaded.version, loaded.head, loaded.max_depth) == ("v1", "sigmoid", 5.0)
    assert "though the name depth-anything/Depth-Anything-V2-Small says 'v2'" in caplog.text


def test_size_that_is_no_variant(tmp_path, official):
    state = {n: x for n, x in official.items() if ".blocks.3." not in n}
    with pytest.raises(ValueError, match=r"width 128 and 3 blocks .*demo 128 x 4.*pass variant"):
        pretrained.load(write(tmp_path / "x.safetensors", state), version="v2")
    with pytest.raises(ValueError, match="variant='vitx' is unknown; choose one of vits"):
        pretrained.load(write(tmp_path / "x.safetensors", official), variant="vitx")


def test_every_size_is_inferred():
    """From the two tensors that tell; the giant's own are 4 GB."""
    for name, size in VARIANTS.items():
        state = {
            "pretrained.cls_token": np.empty((1, 1, size.dim)),
            f"pretrained.blocks.{size.depth - 1}.ls1.gamma": np.empty(size.dim),
        }
        assert pretrained._infer_variant("x", state) == name


# --- the Hub


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache of the Hub's client, which believes to have no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("repo", "file"),
    [
        ("LiheYoung/depth-anything-small-hf", "model.safetensors"),
        ("depth-anything/Depth-Anything-V2-Small-hf", "model.safetensors"),
        ("depth-anything/Depth-Anything-V2-Small", "depth_anything_v2_vits.pth"),
        ("somebody/some-model", "model.safetensors"),
    ],
)
def test_without_a_network_the_error_says_what_to_do(offline, repo, file):
    if file.endswith(".pth"):
        pytest.importorskip("torch")
    with pytest.raises(FileNotFoundError) as caught:
        pretrained.load_pretrained(repo)
    text = str(caught.value)
    assert f"https://huggingface.co/{repo}/resolve/main/{file}" in text
    assert f"put them in a folder called {repo.split('/')[1]!r}" in text


def test_from_the_cache_without_a_network(offline):
    """Weights alone are enough of a known model: version and licence are known."""
    state = state_of("demo", "hf")
    folder = offline / "models--LiheYoung--depth-anything-small-hf"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    write(folder / "snapshots" / commit / "model.safetensors", state)
    loaded = pretrained.load("LiheYoung/depth-anything-small-hf")
    assert (loaded.version, loaded.licence) == ("v1", "Apache-2.0")
    link = {"role": "weights", "source": loaded.source, "licence": "Apache-2.0"}
    assert loaded.metadata["licence_chain"] == [link]
    assert_holds(loaded, state)


# --- licences


@pytest.mark.parametrize(
    ("family", "variant", "licence"),
    [("v1", v, "Apache-2.0") for v in ("vits", "vitb", "vitl")]
    + [("dinov2", v, "Apache-2.0") for v in ("vits", "vitb", "vitl", "vitg")]
    + [("v2", "vits", "Apache-2.0")]
    + [("v2", v, "CC-BY-NC-4.0") for v in ("vitb", "vitl", "vitg")],
)
def test_licences_of_the_released_models(family, variant, licence):
    assert licences.released(family, variant) == licence
    version = None if family == "dinov2" else family
    models = [m for m in released.MODELS if (m.version, m.variant) == (version, variant)]
    assert bool(models) == ((family, variant) != ("v2", "vitg")), "V2 Giant was never released"
    assert {m.licence for m in models} <= {licence}


@pytest.mark.parametrize(
    ("names", "licence", "commercial"),
    [
        (["Apache-2.0", "MIT"], "MIT", True),
        (["Apache-2.0", "cc-by-nc-4.0", "MIT"], "CC-BY-NC-4.0", False),
        (["Apache-2.0", None], "unknown", None),
        (["Apache-2.0", "some-odd-licence"], "some-odd-licence", None),
        ([None, "CC-BY-NC-4.0"], "CC-BY-NC-4.0", False),
        ([], "unknown", None),
    ],
)
def test_the_most_restrictive_wins(names, licence, commercial):
    assert licences.combine(names) == licence
    assert licences.commercial_use(licence) is commercial


def test_chain():
    chain = licences.extend([], "teacher", "depth-anything/Depth-Anything-V2-Large", "CC-BY-NC-4.0")
    chain = licences.extend(chain, "labels", "labels/sa1b", None)
    longer = licences.extend(chain, "student", "runs/x", "Apache-2.0")
    assert licences.extend(longer, "student", "runs/x", "apache-2.0") == longer, "no link twice"
    assert [x["role"] for x in longer] == ["teacher", "labels", "student"] and len(chain) == 2
    assert licences.combined(longer) == "CC-BY-NC-4.0"
    assert "NOT free for commercial use" in licences.note(longer)
    assert "| labels | labels/sa1b | unknown |" in licences.note(longer)


def test_licence_is_shown_once(tmp_path, official, caplog):
    folder = tmp_path / "Depth-Anything-V2-Large-hf"
    folder.mkdir()
    write(folder / "model.safetensors", official)
    for _ in range(2):
        assert pretrained.load(str(folder)).licence == "CC-BY-NC-4.0"
    assert caplog.text.count("not free for commercial use") == 1


def test_a_model_card_may_only_restrict(tmp_path, official):
    """Of our table and the card of a copy, the stricter holds."""
    folder = tmp_path / "Depth-Anything-V2-Base-hf"
    folder.mkdir()
    write(folder / "model.safetensors", official)
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\nlicense: cc0\n")
    assert pretrained.load(str(folder)).licence == "CC-BY-NC-4.0"
    (tmp_path / "copy").mkdir()
    for file in folder.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    assert pretrained.load(str(tmp_path / "copy"), version="v2").licence == "MIT"


def test_unknown_licence_is_said(tmp_path, official, caplog):
    loaded = pretrained.load(write(tmp_path / "mine.safetensors", official), version="v2")
    assert loaded.licence is None
    assert "unknown; find out before you pass it on" in caplog.text


def test_metadata_names_no_folder_of_this_machine(tmp_path, official):
    loaded = pretrained.load(write(tmp_path / "mine.safetensors", official), version="v2")
    assert str(tmp_path) not in json.dumps(export.describe(loaded))
    assert dataclasses.asdict(loaded)["source"].endswith("mine.safetensors")


# --- renamed files


@pytest.mark.parametrize("name", ["model.pth", "weights", "depth.ckpt.1", "my_weights.safetensors"])
def test_a_renamed_file_of_ours_is_read_by_what_is_in_it(tmp_path, official, name):
    facts = {"variant": "demo", "version": "v1", "head": "sigmoid", "max_depth": 80.0}
    loaded = pretrained.load(write(tmp_path / name, official, facts))
    assert {field: getattr(loaded, field) for field in facts} == facts
    assert_holds(loaded, official)


@pytest.mark.parametrize("name", ["model.safetensors", "model", "model.zip"])
def test_a_torch_file_is_one_whatever_its_suffix(tmp_path, official, name):
    torch = pytest.importorskip("torch")
    path = tmp_path / name
    torch.save({n: torch.from_numpy(x) for n, x in official.items()}, path)
    assert_holds(pretrained.load(str(path), version="v2"), official)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("depth_anything_v2_vits (1).pth", ("v2", "relative", None)),
        ("depth_anything_v2_metric_vkitti_vits-copy.pth", ("v2", "sigmoid", 80)),
        ("depth_anything_vits14 (2).safetensors", ("v1", "relative", None)),
    ],
)
def test_a_copy_keeps_its_released_name(name, facts):
    known = released.by_path(name)
    assert (known.version, known.head, known.max_depth) == facts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_depth_anything_v2_ft.pth", {"version": "v2"}),
        ("Depth-Anything-V2-Small.safetensors", {"version": "v2"}),
        ("depth_anything_v2_metric_mine.pth", {"version": "v2", "head": "sigmoid"}),
        ("old_depth_anything_vitb14_ft.pth", {"version": "v1"}),
        ("depth-anything-small.safetensors", {"version": "v1"}),
        ("depth_anything.pth", {}),
        ("model.pth", {}),
        ("metric_v2.pth", {}),
    ],
)
def test_what_is_left_of_a_released_name_tells_the_version(name, said):
    assert released.guess(name) == said


def test_the_rest_of_a_name_is_believed_where_nothing_else_speaks(tmp_path, official, caplog):
    path = write(tmp_path / "my_depth_anything_v2_ft.safetensors", official)
    assert pretrained.load(path).version == "v2"
    assert "my_depth_anything_v2_ft.safetensors" in caplog.text  # and is said
    assert pretrained.load(path, version="v1").version == "v1"
    path = write(tmp_path / "depth_anything_v2_metric_mine.safetensors", official)
    with pytest.raises(weight_metadata.Undetermined, match="range is not in the file") as caught:
        pretrained.load(path)
    assert list(caught.value.choices) == ["--max-depth=20", "--max-depth=80"]


def test_a_version_that_nothing_tells_is_a_choice_of_two(tmp_path, official):
    path = write(tmp_path / "model.pth", official)
    with pytest.raises(weight_metadata.Undetermined) as caught:
        pretrained.load(path)
    assert list(caught.value.choices) == ["--model-version=v2", "--model-version=v1"]
