"""tools/compile_check.py and benchmarks/tpu_table.py; CPU devices stand for the chips of a slice.

test_topologies.py has libtpu's.
"""

import json
import math
import pathlib
import runpy
import types

import jax
import pytest

from depth_anything_jax import configs
from depth_anything_jax.aot import report, topology
from depth_anything_jax.models import depth_anything
from depth_anything_jax.parallel import device_programs
from depth_anything_jax.training import config_checks
from tests.helpers.tiny_runs import TINY, shipped
from tools import compile_check

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "tpu.md"
ROOT = pathlib.Path(compile_check.__file__).parent.parent


@pytest.fixture
def eight(monkeypatch):
    """A slice of eight chips, and a tiny student that is compiled quickly."""
    chip = topology.CHIPS["v5e"]
    slice_ = topology.Topology("v5e:2x4", chip, jax.devices(), 8)
    monkeypatch.setattr(topology, "describe", lambda name, host: slice_)
    monkeypatch.setattr(device_programs, "options", lambda effort: None)
    monkeypatch.setitem(depth_anything.VARIANTS, "tiny", TINY)
    jax.config.update("jax_disable_most_optimizations", True)
    yield shipped("student", "vits", teacher="files", batch_size=24)
    jax.config.update("jax_disable_most_optimizations", False)


def check(config, program="train", **fields):
    return compile_check.check(
        config, "v5e:2x4", program, **{"teacher": "tiny", "size": (28, 42), **fields}
    )


def test_what_is_printed(eight, capsys):
    assert check(eight) == 0
    said = capsys.readouterr().out
    assert "train on v5e:2x4" in said and "GiB: fits" in said
    assert "all-reduce of f32 among 8" in said and "roofline" in said
    assert check(eight, as_json=True) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["fits"] and row["peak"] > 0
    assert row["bounds"]["arithmetic"] == row["flops"] / topology.CHIPS["v5e"].flops
    assert row["flops"] > row["useful_flops"]  # rematerialisation


@pytest.mark.parametrize("program", ["label", "evaluate", "predict"])
def test_forward_programs_need_no_collectives(eight, capsys, program):
    assert check(eight, program) == 0
    assert "no chip talks to another" in capsys.readouterr().out


def test_what_does_not_fit(eight, monkeypatch, capsys):
    small = topology.CHIPS["v5e"]._replace(memory=1000)
    slice_ = topology.Topology("v5e:2x4", small, jax.devices(), 8)
    monkeypatch.setattr(topology, "describe", lambda name, host: slice_)
    assert check(eight) == compile_check.NO
    assert "does not fit" in capsys.readouterr().out

    class Lowered:
        def compile(self, **_):
            raise RuntimeError("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm")

    monkeypatch.setattr(compile_check, "lowered", lambda *_, **__: (Lowered(), 8, 1.0, 1.0))
    assert check(eight, as_json=True) == compile_check.NO
    assert json.loads(capsys.readouterr().out) == {
        "fits": False,
        "why": "it needs 20.00G of 15.75G",
    }


def test_what_cannot_be_asked_for(eight):
    with pytest.raises(ValueError, match="batch_size=25"):
        eight.batch_size = 25
        check(eight)
    with pytest.raises(ValueError, match="program=label"):
        check(eight, "label", fit=True)


def test_the_batch_that_fits(eight, monkeypatch, capsys):
    """Each batch is compiled; here its memory is that of 1.5 GiB an image, and of one GiB."""

    def figures(config, topology_, program, effort, **_):
        images = config.batch_size / 8 / config.accumulation
        needed = int((1 + 1.5 * images) * 2**30)
        if needed > 20 * 2**30:
            raise report.DoesNotFit("it needs more")
        return report.Report(0, 0, needed, 0, 1.0, 1.0, 1, [], 1.0)

    monkeypatch.setattr(compile_check, "figures", figures)
    assert check(eight, fit=True) == 0
    assert "the batch that fits: 72, 9 images of a chip at a time" in capsys.readouterr().out
    assert eight.batch_size == 24  # as it was
    eight.accumulation, eight.batch_size = 2, 192
    assert check(eight, fit=True) == compile_check.NO
    assert "the batch that fits: 144, 9 images" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [0, 1, 5, 6, 7, 64, 1000])
@pytest.mark.parametrize("start", [1, 24, 3000])
def test_the_search(limit, start):
    asked = []

    def fits(batch):
        asked.append(batch)
        return batch <= limit * 6

    assert compile_check.largest_batch(fits, 6, start) == limit * 6
    assert len(asked) == len(set(asked)) <= 2 * math.log2(max(limit, start)) + 4


# The table


@pytest.fixture
def tpu_table():
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "tpu_table.py")))


def test_each_row_is_a_configuration(tpu_table):
    found = list(tpu_table.rows())
    commands = {tuple(tpu_table.command(w, s, t, m, -1)) for w, s, t, _, m in found}
    assert len(commands) == len(found) == 2 * 4 * 4 * 4
    for what, size, slice_, chips, fields in found:
        config = shipped(what, size if (what, size) != ("student", "vitg") else "vitl", **fields)
        assert math.prod(map(int, slice_.split(":")[1].split("x"))) == chips
        parts = chips * config.accumulation
        assert all(n % parts == 0 for n in config_checks.batch_sizes(config).values())
        assert config.batch_size / parts <= tpu_table.MOST[size]
    for what, images in tpu_table.IMAGES.items():
        path = configs.folder() / f"{what}.py"
        paper = runpy.run_path(str(path))["get_config"]("vitl")
        assert images == paper.total_steps * paper.batch_size


def test_the_document_has_what_was_compiled(tpu_table, capsys):
    tpu_table.table()
    table = capsys.readouterr().out.strip()
    assert table in DOCUMENT.read_text(encoding="utf-8")
