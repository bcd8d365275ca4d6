"""The shipped configs: listed, copied, found, and their fields documented."""

import ast
import os
import pathlib
import re
import runpy

import pytest

from depth_anything_jax import configs
from depth_anything_jax.data.training_sets import COUNTS, SETS


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package with two shipped configs, and an empty current folder."""
    monkeypatch.setattr(configs, "_HERE", tmp_path / "package")
    folder = tmp_path / "package" / "_configs"
    folder.mkdir(parents=True)
    (folder / "student.py").write_text('"""A student.\n\nMore."""\n')
    (folder / "teacher.py").write_text("x = 1\n")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


@pytest.mark.parametrize("name", ["configs/student.py", "student.py", "student"])
@pytest.mark.parametrize("argument", ["", ":vits", ":vitl,v2", ":"])
def test_shipped_files_stand_in_for_missing_ones(shipped, name, argument):
    assert configs.resolve(name + argument) == f"{shipped / 'student.py'}{argument}"


def test_a_file_of_ones_own_comes_first(shipped):
    pathlib.Path("configs").mkdir()
    pathlib.Path("configs/student.py").write_text("")
    assert configs.resolve("configs/student.py:demo") == "configs/student.py:demo"
    absolute = os.path.abspath("configs/student.py")
    assert configs.resolve(absolute) == absolute


def test_no_shipped_file_for_a_path_elsewhere(shipped):
    with pytest.raises(FileNotFoundError, match=r"mine/student\.py.*did you mean 'student'"):
        configs.resolve("mine/student.py")


def test_a_typo_names_the_nearest(shipped):
    with pytest.raises(FileNotFoundError, match=r"configs/techer\.py.*mean 'teacher'"):
        configs.resolve("configs/techer.py:vits")


def test_copy_gives_all_and_overwrites_nothing(shipped, tmp_path):
    assert [p.name for p in configs.copy("mine")] == ["student.py", "teacher.py"]
    configs.copy("mine")  # the same contents are no conflict
    pathlib.Path("mine/teacher.py").write_text("edited")
    pathlib.Path("mine/student.py").unlink()
    with pytest.raises(FileExistsError, match=r"mine/teacher\.py"):
        configs.copy("mine")
    assert pathlib.Path("mine/teacher.py").read_text() == "edited"
    assert not pathlib.Path("mine/student.py").exists()


def test_the_list_shows_names_and_first_lines(shipped, capsys):
    configs.main([])
    assert capsys.readouterr().out.splitlines()[1].split(maxsplit=1) == ["student", "A student."]


def test_a_broken_installation_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "_HERE", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="install the package again"):
        configs.folder()


def test_the_checkout_ships_the_documented_ones():
    assert {"student", "teacher", "finetune"} <= set(configs.names())
    for name in configs.names():
        assert configs.summary(name).endswith("."), name


@pytest.mark.parametrize("name", ["student", "teacher", "finetune", "metric", "adapt"])
def test_a_config_is_its_lab_note(name):
    """Command, hardware, time and expected result."""
    note = ast.get_docstring(ast.parse((configs.folder() / f"{name}.py").read_text()))
    assert f"--config=configs/{name}.py" in note
    for part in ("Hardware", "Time", "Result"):
        assert re.search(rf"^{part}: ", note, re.MULTILINE), part


def test_the_mixtures_are_those_of_the_papers():
    """Sums: V1 Table 1 (1.5 and 62 million), V2 section 7 (595 thousand), as the papers round."""
    common = runpy.run_path(str(configs.folder() / "common.py"))
    mixtures = common["MIXTURES"]
    for names in mixtures.values():
        assert set(names) <= set(SETS)
    assert {n for names in mixtures.values() for n in names} == set(SETS)
    assert {n: c for counts in mixtures.values() for n, c in counts.items()} == COUNTS
    sums = {name: sum(counts.values()) for name, counts in mixtures.items()}
    assert sums == {"v1_labelled": 1599, "v2_labelled": 604, "unlabelled": 62300}
    for name, variant, labelled, steps in (
        ("teacher", "vitl", "v1_labelled", 468_750),
        ("teacher", "vitg,v2", "v2_labelled", 160_000),
        ("teacher", "v2", "v2_labelled", 160_000),
        ("student", "vits", "v1_labelled", 484_375),
    ):
        config = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
        assert config.data.labelled == tuple(f"tfds:data/{n}" for n in mixtures[labelled])
        assert config.total_steps == steps
    assert config.data.unlabelled == tuple(f"tfds:data/{n}" for n in mixtures["unlabelled"])
    with pytest.raises(ValueError, match="teacher.py:vitx,v2: .'vitx'. unknown"):
        runpy.run_path(str(configs.folder() / "teacher.py"))["get_config"]("vitx,v2")
