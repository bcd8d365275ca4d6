"""The notebooks beside what Colab and Kaggle bring, where their first cell installs and restarts.

Real installs of notebooks/pins and real kernels, on the Python of each, as far as CPU can go.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.helpers.notebook_runs import (
    PINS,
    RUNTIMES,
    SMALL,
    environment,
    execute,
    make_checkout,
    pinned,
    save_model,
)

# Batches for eight devices too, as on Kaggle; a number of steps, so that none are timed.
TRAINING = {**SMALL, "BATCH": 24, "STEPS": 10}


def installed(python: str) -> dict[str, str]:
    listed = [python, "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    found = {p["name"].lower().replace("_", "-"): p["version"] for p in json.loads(done.stdout)}
    return {name: version for name, version in found.items() if name != "pip"}


# A program for a TPU, compiled without one: whether a jax and a libtpu fit each other.
COMPILE = """
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[:1]
there = NamedSharding(Mesh(np.array(chip), ("chip",)), PartitionSpec())
def on_chip(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), tree)
"""
ANYTHING = """
x = on_chip(jnp.zeros((128, 128)))
jax.jit(lambda x: jax.nn.gelu(x @ x, approximate=False)).lower(x).compile()
"""
OURS = """
from depth_anything_jax.models import build
images = jnp.zeros((2, 112, 112, 3))
model = build("demo", attention="splash")
params = on_chip(jax.eval_shape(model.init, jax.random.key(0), images))
print(jax.jit(model.apply).lower(params, on_chip(images)).compile().as_text())
"""


def compile_for_tpu(python: str, code: str) -> subprocess.CompletedProcess:
    """libtpu asks no metadata server here, and may be loaded beside another process's."""
    more = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **more}
    command = [python, "-c", COMPILE + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def make_kernel(folder: pathlib.Path, name: str, python: str) -> None:
    """A Jupyter kernel of that Python, in a folder for JUPYTER_PATH."""
    command = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernels" / name).mkdir(parents=True)
    described = {"argv": command, "display_name": name, "language": "python"}
    (folder / "kernels" / name / "kernel.json").write_text(json.dumps(described))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", RUNTIMES)
def test_the_notebooks_run_beside_what_a_runtime_brings(name, tmp_path, monkeypatch, request):
    """Colab: a wheel, an old jax loaded, a restart. Kaggle: a checkout, an old libtpu, a batch."""
    colab = name.startswith("colab")
    # Neither this checkout nor what an editable install left in it is to be seen there.
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.chdir(tmp_path)
    # Gigabytes, which pytest would keep.
    request.addfinalizer(lambda: shutil.rmtree(tmp_path / "runtime", ignore_errors=True))
    python = environment(tmp_path / "runtime", RUNTIMES[name][0])
    quiet = ["-m", "pip", "install", "--quiet"]
    brings = PINS / f"{name}-brings.txt"
    # Kaggle installs its libtpu last, by force: pip itself would not have it beside this jax.
    subprocess.run([python, *quiet, "--no-deps", "--requirement", str(brings)], check=True)
    assert installed(python) == pinned(f"{name}-brings")
    if not colab:  # why its libtpu has to go
        compiled = compile_for_tpu(python, ANYTHING)
        assert compiled.returncode and "StableHLO" in compiled.stderr, compiled.stderr
    source = make_checkout(tmp_path / "source")
    work = tmp_path / "work"
    work.mkdir()
    if colab:
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
        subprocess.run([*wheel, str(work), str(source)], check=True)
        shutil.rmtree(source)
        started = {"COLAB_RELEASE_TAG": "release-colab"}
    else:
        shutil.move(source, work / "code")
        started = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "JAX_NUM_CPU_DEVICES": 8}
    before = sorted(work.rglob("*"))
    make_kernel(tmp_path / "jupyter", name, python)
    for key in ("PACKAGE", "XLA_FLAGS"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PIP_CONSTRAINT", str(PINS / f"{name}-installs.txt"))
    model = save_model(tmp_path / "model")

    def run(notebook, before="", **settings):
        return execute(notebook, work, monkeypatch, name, before, **started, **settings)

    if colab:
        text = run("quickstart", before="import jax", SOURCE=model)
        assert "installing " in text and "jax 0.7.2 is loaded" in text  # and died
        assert not (work / "depth").exists()
    else:
        # The checkout is as it was before pip built from it.
        text = run("quickstart", SOURCE=model)
        assert "installing " in text
        assert sorted((work / "code").rglob("*")) == [p for p in before if p != work / "code"]
    now = installed(python)
    assert now.pop("depth-anything-jax")
    assert now == pinned(f"{name}-brings") | pinned(f"{name}-installs")
    subprocess.run([python, "-m", "pip", "check"], check=True)
    compiled = compile_for_tpu(python, OURS)
    assert "tpu_custom_call" in compiled.stdout, compiled.stderr  # splash attention
    text = run("quickstart", SOURCE=model)  # from the top
    assert "installing" not in text and f"libtpu {now['libtpu']}\n" in text
    assert "depth/street.png: Depth(280x280, relative inverse depth" in text
    text = run("train_student_tpu", **TRAINING)
    assert "installing" not in text and text.count("10/10 100%") == 2
    assert "| runs/student_tpu/student | scenes:B" in text
    assert text.count("CpuDevice(id=") == (1 if colab else 8)
