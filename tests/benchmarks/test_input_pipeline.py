"""benchmarks/input_pipeline.py: the data that it writes go through the real pipeline."""

import json

import numpy as np
import pytest

from benchmarks import input_pipeline


def test_a_small_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(input_pipeline, "HEIGHT", 48)
    monkeypatch.setattr(input_pipeline, "WIDTH", 64)
    monkeypatch.setattr(input_pipeline, "SIZE", 56)
    flags = "--count 2 --records 6 --images 4 --batch 2 --rounds 2 --memory 40"
    input_pipeline.main([*flags.split(), "--out", f"{tmp_path}/found"])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert set(found["rates"]) == set(input_pipeline.TARGETS)
    assert all(rate["images_per_core_s"] > 0 for rate in found["rates"].values())
    assert min(found["stages"].values()) >= 0 and "image: decode JPEG" in found["stages"]
    assert found["memory"]["images"] == 40 and found["memory"]["samples"] == 20
    text = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert "6 records of 2 JPEGs of 64 x 48 pixels" in text


def test_the_slope_of_a_leak():
    images = list(range(500, 10_500, 500))
    memory = [300 + 0.002 * n for n in images]
    assert 1000 * input_pipeline.slope(images, memory) == pytest.approx(2.0)
    assert input_pipeline.resident() > 20
    held = np.ones(20_000_000)
    assert input_pipeline.resident() > held.nbytes / 1e6
