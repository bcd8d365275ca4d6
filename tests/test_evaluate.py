"""The evaluation program on rendered scenes."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import checkpoint, evaluate, models

SCENES = "scenes:A?count=2&size=28"


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = models.build("demo")
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    meta = {"variant": "demo", "version": "v2", "head": "relative", "max_depth": None}
    checkpoint.save_params(folder, jax.tree.map(np.asarray, params), meta)
    return str(folder)


def test_scores_and_table(weights_folder):
    found = evaluate.scores(weights_folder, [SCENES], size=28)
    assert found["all"]["images"] == 2
    assert found["all"]["abs_rel"] > 0 and 0 < found["all"]["delta1"] <= 1
    rows = evaluate.table({"x": found}).splitlines()
    assert rows[2].startswith(f"| x | all | 2 | {found['all']['abs_rel']:.4f} |")


def test_the_program_writes_json_and_names_what_is_missing(weights_folder, tmp_path):
    base = [sys.executable, "-m", "depth_anything_jax.evaluate", "--size=28"]
    good = [f"--checkpoint={weights_folder}", f"--data={SCENES}", f"--out={tmp_path}/s.json"]
    good += ["--allow-missing=nothing"]
    done = subprocess.run([*base, *good], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())[weights_folder]["all"]["images"] == 2
    bad = subprocess.run(
        [*base, f"--checkpoint={tmp_path}/no", f"--data={SCENES}"], capture_output=True, text=True
    )
    assert (
        bad.returncode == 1 and "FileNotFoundError" in bad.stderr and "Traceback" not in bad.stderr
    )
