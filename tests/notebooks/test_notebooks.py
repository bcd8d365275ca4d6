"""The notebooks run on CPU as they stand, with small weights and sizes from the environment."""

import ast
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from depth_anything_jax.data import registry
from tests.helpers.notebook_runs import (
    FIXED,
    NOTEBOOKS,
    ROOT,
    SIZE,
    SMALL,
    code_of,
    execute,
    save_model,
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_output_is_committed(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert code and not any(c["outputs"] or c["execution_count"] for c in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_each_opens_in_colab(path):
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    repository = re.search(r"repository: https://github\.com/(\S+)", site)[1]
    address = (
        f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    )
    assert f"[Open in Colab]({address})" in first


def settings_cell(tmp_path, monkeypatch, **names):
    """Runs the cell of the training's settings; returns where it mounted."""
    mounted = []
    given = {"COLAB": True, "DEVICES": "[TpuDevice(id=0)]", "mount": mounted.append, **names}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    code = code_of(ROOT / "notebooks" / "train_student_tpu.ipynb")[1]
    exec(compile(code, "settings", "exec"), {"os": os, "pathlib": pathlib, **given})
    return mounted


def test_the_training_stops_without_a_tpu_unless_it_is_told_to_go_on(tmp_path, monkeypatch):
    settings_cell(tmp_path, monkeypatch)
    for other in ("[CpuDevice(id=0)]", "[CudaDevice(id=0)]"):
        monkeypatch.delenv("WITHOUT_TPU", raising=False)
        with pytest.raises(RuntimeError, match="no TPU here, only .*WITHOUT_TPU"):
            settings_cell(tmp_path, monkeypatch, DEVICES=other)
        monkeypatch.setenv("WITHOUT_TPU", "1")
        settings_cell(tmp_path, monkeypatch, DEVICES=other)


def test_kaggle_says_when_its_folder_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DRIVE", raising=False)
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/kaggle/working")
    monkeypatch.setattr(os, "makedirs", lambda path, **how: None)
    settings_cell(tmp_path, monkeypatch, COLAB=False)
    assert 'kept only by "Save Version"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("drive", "colab", "told"),
    [
        ("", True, "DRIVE is empty: checkpoints"),
        ("drive", True, "DRIVE is drive: checkpoints"),
        ("/content/drive/MyDrive/depth", True, ""),
        ("", False, ""),
    ],
)
def test_an_empty_drive_is_loud_on_colab(drive, colab, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DRIVE", drive)
    made = []
    monkeypatch.setattr(pathlib.Path, "mkdir", lambda path, **how: made.append(str(path)))
    assert settings_cell(tmp_path, monkeypatch, COLAB=colab) == [drive]
    out = capsys.readouterr().out
    assert (told in out and out.count("!" * 88) == 2) if told else not out
    assert made == [drive] * bool(drive)


def imported(code: str) -> set[str]:
    """Packages that a cell imports, top level and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_the_first_cell_is_the_same_and_imports_nothing_that_is_replaced():
    first, *others = [code_of(path)[0] for path in NOTEBOOKS]
    assert others == [first, first]
    # The module `google` is that of Colab, which loaded it before.
    assert imported(first) <= {*sys.stdlib_module_names, "google"}
    assert re.findall(r"(?:from|import) google\S*", first) == ["from google.colab"]
    assert not any("pip" in code for path in NOTEBOOKS for code in code_of(path)[1:])


def test_the_trainings_notebook_leaves_the_tpu_to_its_programs():
    used = set().union(*map(imported, code_of(ROOT / "notebooks" / "train_student_tpu.ipynb")))
    assert not used & {"jax", "flax"}
    code = "import depth_anything_jax.data.scenes.source, depth_anything_jax.training.logger, sys\n"
    code += "assert 'jaxlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> pathlib.Path:
    return save_model(tmp_path_factory.mktemp("weights") / "model")


def test_quickstart(checkpoint, tmp_path, monkeypatch):
    text = execute("quickstart", tmp_path, monkeypatch, SOURCE=checkpoint)
    assert "depth/street.png: Depth(280x280, relative inverse depth" in text
    assert "metric depth, near 2 m, far 30 m), median" in text
    assert sorted(p.name for p in (tmp_path / "depth").iterdir()) == ["first.ply", "street.png"]


@pytest.mark.nightly
def test_quickstart_with_photos(checkpoint, tmp_path, monkeypatch):
    from PIL import Image

    street = registry.make({"type": "scenes", "domain": "B", "count": 1, "seed": 1, "size": 140})
    image = Image.fromarray(street[0]["image"])
    for name, height in (("low", 112), ("square", 140)):
        image.crop((0, 0, 140, height)).save(tmp_path / f"{name}.jpg")
    text = execute("quickstart", tmp_path, monkeypatch, SOURCE=checkpoint)
    assert "depth/low.png: Depth(112x140" in text and "depth/square.png: Depth(140x140" in text


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_train_students_then_export(checkpoint, tmp_path, monkeypatch):
    """As many steps as fit: twenty, the least. The photos' student is exported from the Drive."""
    pytest.importorskip("torch")
    from PIL import Image

    streets = registry.make({"type": "scenes", "domain": "B", "count": 6, "seed": 1, "size": SIZE})
    (tmp_path / "photos").mkdir()
    for k in range(len(streets)):
        Image.fromarray(streets[k]["image"]).save(tmp_path / "photos" / f"{k}.png")
    settings = {
        **SMALL,
        "TEACHER": checkpoint,
        "PHOTOS": "photos",
        "MINUTES": 0.001,
        "DRIVE": "drive",
    }
    text = execute("train_student_tpu", tmp_path, monkeypatch, **settings)
    assert text.count("30/30 100%") == text.count("20/20 100%") == 3
    assert "12 images labelled" in text and "6 images labelled" in text
    assert "| runs/student_tpu/student | scenes:B" in text
    assert text.endswith("drive/photo_student\nruns/student_tpu/photo_student\n")
    steps = sorted(p.name for p in (tmp_path / "runs" / "student_tpu").glob("*_steps.txt"))
    assert steps == ["photo_student_steps.txt", "student_steps.txt", "teacher_steps.txt"]
    source = tmp_path / "drive" / "photo_student"
    text = execute("export_to_pytorch", tmp_path, monkeypatch, SOURCE=source)
    assert "largest difference" in text and "demo v2, relative" in text


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_training_whose_machine_is_lost_goes_on_from_the_drive(tmp_path, monkeypatch):
    """Killed when the student's first checkpoint has arrived, its disk lost, run from the top."""
    steps = 60
    settings = {**SMALL, "STEPS": steps}
    text = execute("train_student_tpu", tmp_path / "straight", monkeypatch, **settings)
    assert text.count(f"{steps}/{steps} 100%") == 2
    work, drive = tmp_path / "lost" / "runs", tmp_path / "lost" / "drive"
    work.parent.mkdir()
    # Its cells in one process, whose group holds all that it starts.
    code = "\n".join(["display = print", *code_of(ROOT / "notebooks" / "train_student_tpu.ipynb")])
    environment = {**FIXED, "PYTHONPATH": ROOT, "MPLBACKEND": "agg", "DRIVE": "drive", **settings}
    with open(tmp_path / "log.txt", "w") as log:
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=work.parent,
            env={**os.environ, **{k: str(v) for k, v in environment.items()}},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + 900
    while not [*(drive / "student").glob("*.tar")]:
        assert run.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    shutil.rmtree(work)
    text = execute("train_student_tpu", work.parent, monkeypatch, DRIVE="drive", **settings)
    assert f"runs/student_tpu/teacher already holds all {steps} steps" in text
    (stopped,) = re.findall(rf"continues after step (?!{steps} )(\d+) of {steps}", text)
    assert 0 < int(stopped) < steps
    from depth_anything_jax.checkpoints import orbax_io
    from depth_anything_jax.utils import param_paths

    one, other = (
        orbax_io.load_params(folder / "runs" / "student_tpu" / "student")
        for folder in (tmp_path / "straight", tmp_path / "lost")
    )
    assert one[1]["step"] == other[1]["step"] == steps
    ours = param_paths.leaves_by_path(other[0])
    for name, expected in param_paths.leaves_by_path(one[0]).items():
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)
