"""configs/reproduce.py: every recipe is built, sharded and traced at its full size."""

import importlib.util
import pathlib
import re
import runpy

import pytest

from depth_anything_jax import configs
from depth_anything_jax.aot import programs
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import config_checks

ROOT = pathlib.Path(__file__).resolve().parents[1]
REPRODUCE = runpy.run_path(str(configs.folder() / "reproduce.py"))
SPEC = importlib.util.spec_from_file_location("table", ROOT / "benchmarks/reproduce_table.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)
RECIPES = tuple(benchmark.ACCUMULATION)


def config_of(recipe):
    config = REPRODUCE["get_config"](recipe)
    config.accumulation = benchmark.ACCUMULATION[recipe]
    return config


def test_recipes_are_the_papers():
    lengths = {name: REPRODUCE["get_config"](name).total_steps for name in RECIPES}
    # V2 section 7; V1 4.1: one sweep over 62 M at 128; the list's names at 128.
    assert lengths["hypersim"] == 160_000 and lengths["public_list"] == 109_921
    assert {lengths[f"v1_{s}"] for s in REPRODUCE["SIZES"]} == {484_375}
    assert {lengths[f"v2_{s}"] for s in REPRODUCE["SIZES"]} == {480_000}
    config = REPRODUCE["get_config"]("irs")
    assert config.data.labelled == ("tfds:data/irs",) and config.model.variant == "vitl"
    assert config.workdir == "runs/reproduce_irs" and config.loss.gradient_weight == 2
    config = REPRODUCE["get_config"]("v2_vitb")
    assert not config.data.labelled and config_checks.batch_sizes(config)["unlabelled"] == 192
    with pytest.raises(ValueError, match="reproduce.py:v1_vitg: choose one of blended.*v2_vitl"):
        REPRODUCE["get_config"]("v1_vitg")


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=[pytest.mark.nightly] * (r != "v2_vits")) for r in RECIPES]
)
def test_the_step_is_traced_at_its_full_size_on_eight_devices(recipe):
    config = config_of(recipe)
    training = programs.Training(config, sharding.make_mesh(-1, config.mesh.fsdp))
    text = training.step().as_text()
    micro = config.batch_size // config.accumulation
    side = config.input_size
    assert re.search(rf"tensor<({micro}|{micro // 3}|{2 * micro // 3})x{side}x{side}x3x", text)
    width = {"vits": 384, "vitb": 768, "vitl": 1024}[config.model.variant]
    assert f"x{width}x{3 * width}xf32" in text


def test_the_document_has_the_benchmarks_table():
    text = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
    assert benchmark.table() in text
    assert set(benchmark.known()) == set(RECIPES), "python benchmarks/reproduce_table.py --compile"


def test_the_docstrings_have_the_hours_of_the_table():
    """ "at least" hours, rounded to whole ones."""
    least = {
        name: f"{benchmark.hours(row, REPRODUCE['get_config'](name).total_steps):.0f}"
        for name, row in benchmark.known().items()
    }
    said = {
        "one_labelled_set": [least["hypersim"]],
        "v1_student": [least[f"v1_{s}"] for s in REPRODUCE["SIZES"]],
        "v2_student": [least[f"v2_{s}"] for s in REPRODUCE["SIZES"]],
        "public_list": [least["public_list"]],
    }
    for function, numbers in said.items():
        note = REPRODUCE[function].__doc__
        assert re.findall(r"\d+", note.partition("at least ")[2])[: len(numbers)] == numbers, (
            function
        )
