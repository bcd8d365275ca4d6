"""benchmarks/train_step.py: its formula, its rows, and that PyTorch's step is the same step."""

import json
import pathlib

import jax
import pytest

from benchmarks import step_flops, train_step
from depth_anything_jax.aot import flops
from depth_anything_jax.models import VARIANTS, build

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def one_device(monkeypatch):
    """As on a machine with one, and compiled without optimisation, which takes a fifth."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    make = train_step.sharding.make_mesh
    monkeypatch.setattr(train_step.sharding, "make_mesh", lambda: make(devices=first))
    quick = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(train_step.device_programs, "options", lambda *_: quick)


@pytest.mark.parametrize(("variant", "size"), [("vits", 518), ("vitl", 518), ("vits", 266)])
def test_the_formula_is_what_the_traced_network_does(variant, size):
    found = step_flops.encoder(VARIANTS[variant], size, size)
    found += step_flops.decoder(VARIANTS[variant], size, size)
    # The traced network's resizes are products, which the formula leaves out: 1.8 % at 266.
    assert found <= flops.of_image(build(variant), size, size) <= 1.02 * found


def test_backward_is_twice_forward_and_the_frozen_encoder_only_looks():
    image = step_flops.step("vits", 518, 518, labelled=1, unlabelled=0, frozen=False)
    encoder = step_flops.encoder(VARIANTS["vits"], 518, 518)
    both = encoder + step_flops.decoder(VARIANTS["vits"], 518, 518)
    assert image == 3 * both
    student = step_flops.step("vits", 518, 518, labelled=1, unlabelled=2, frozen=True)
    assert student == 9 * both + 2 * encoder


def test_peaks_are_found_by_the_device_s_name():
    assert step_flops.peak_of("NVIDIA H200").flops == 989e12
    assert step_flops.peak_of("NVIDIA H100 PCIe").flops == 756e12
    assert step_flops.peak_of("TPU v5 lite").flops == 197e12
    assert step_flops.peak_of("TPU v5").flops == 459e12
    assert step_flops.peak_of("cpu") is None


def test_a_row_of_the_teacher(one_device, monkeypatch, tmp_path, capsys):
    """All but the step itself, whose compilation takes fifteen seconds: see the nightly test."""

    def stands_in(ours):
        program = jax.jit(lambda x: x["labelled"]["image"].mean())
        return train_step.Program(lambda n: program(ours.batch), 1.5, 2**30, [0.25])

    monkeypatch.setattr(train_step.Ours, "program", stands_in)
    flags = "--steps teacher --variants demo --batches 2 --sizes 28 --rounds 2 --warmup 0 --peak 1"
    train_step.main([*flags.split(), "--out", f"{tmp_path}/found"])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    (row,) = found["rows"]
    assert "why" not in row
    assert row["images_per_s"] == pytest.approx(2 / row["seconds"])
    assert row["mfu"] == pytest.approx(row["tflops_per_s"])  # of one TFLOP/s
    assert row["flops"] == step_flops.step("demo", 28, 28, labelled=2, unlabelled=0, frozen=False)
    text = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| teacher demo | 28 | 2 | ours |" in text and "| 1.00 GiB | 0.25000 |" in text
    assert "not asked for" in found["no_torch"] and found["no_torch"] in text


@pytest.mark.nightly
def test_real_steps_and_the_student_in_pytorch_has_our_losses(one_device, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    flags = "--variants demo --batches 6 --sizes 112 --rounds 1 --warmup 0 --torch"
    train_step.main([*flags.split(), "--out", f"{tmp_path}/found"])
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    teacher, *rows = rows
    assert "why" not in teacher and 0 < teacher["losses"][0] < 10
    losses = {row["program"]: row.get("losses", row.get("why")) for row in rows}
    # float32 on both sides; medians and a threshold may fall on a neighbour: 1e-4 of a loss
    assert losses["torch eager"] == pytest.approx(losses["ours, plain"], rel=1e-4)
    assert len(losses["ours"]) == 3


def test_a_program_that_fails_is_a_row_with_its_reason(one_device, monkeypatch, tmp_path):
    def fails(ours):
        raise MemoryError("no room for 5 GiB\nand more")

    monkeypatch.setattr(train_step.Ours, "program", fails)
    flags = "--steps teacher --variants demo --batches 2 --sizes 28 --rounds 1"
    train_step.main([*flags.split(), "--out", f"{tmp_path}/found"])
    (row,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert row["why"] == "MemoryError: no room for 5 GiB"
    assert row["why"] in (tmp_path / "found.md").read_text(encoding="utf-8")
