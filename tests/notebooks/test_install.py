"""The notebooks' first cell: what it finds, installs and restarts, on Colab, on Kaggle and at home.

In simulated runtimes; test_notebooks_runtimes.py installs and runs in real environments.
"""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import types

import pytest

from tests.helpers.notebook_runs import (
    NOTEBOOKS,
    ROOT,
    RUNTIMES,
    code_of,
    environment,
    make_checkout,
    pinned,
)

FIRST = code_of(NOTEBOOKS[0])[0]
SERIES = {"0.7.2": "0.0.21", "0.10.2": "0.0.42", "0.12.0.1": "0.0.50"}  # libtpu of each jax
REPLACED = ("jax", "jaxlib", "flax", "ml_dtypes", "numpy")  # what may be loaded already
COLAB = {
    "jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2", "libtpu": "0.0.21.1", "numpy": "2.1.3",
    "torch": "2.9.0+cpu",
}  # fmt: skip
KAGGLE = {
    "jax": "0.12.0.1", "jaxlib": "0.12.0.1", "flax": "0.12.12", "libtpu": "0.0.17",
    "numpy": "2.5.5", "torch": "2.8.0+cpu",
}  # fmt: skip
ON_COLAB = {"COLAB_RELEASE_TAG": "release-colab"}


# What the cell asks for by default, and on Python 3.11: jax, libtpu and the oldest numpy.
NEW, OLD = re.findall(r'JAX, LIBTPU, NUMPY = "(.+)", "(.+)", "(.+)"', FIRST)


class Restarted(BaseException):
    """Stands for the death of the kernel, which no `except Exception` sees either."""


class Runtime:
    """Where the first cell runs: what is installed and loaded there, and what it starts.

    Args:
      installed: versions by name; pip brings what the cell's constraints say, and this package.
      run: stands for pip, called with its command; returns (status, output).
      python: its version.
      folder: where the notebook lies; it also holds "kaggle" and "drive", which stand for
        /kaggle/input and /content/drive.
      environment: such as PACKAGE, or what Colab and Kaggle set.
    """

    def __init__(
        self, installed, run=lambda command: (0, ""), folder=None, python=(3, 13), **environment
    ):
        self.installed, self.pip, self.folder = dict(installed), run, folder
        self.python, self.environment = python, environment
        self.commands: list[list[str]] = []
        self.stay = ""
        self.mounted: list[str] = []

    def version(self, name):
        if name not in self.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.installed[name]

    def requires(self, name):
        assert name == "jax"
        series = SERIES[self.installed["jax"]]
        return ["numpy>=2.0", f'libtpu=={series}.*; extra == "tpu"', 'requests; extra == "tpu"']

    def run(self, command, **how):
        self.commands.append([*command])
        if "pip" not in command:
            return subprocess.CompletedProcess(command, 0, "a line of XLA's\n[TpuDevice(id=0)]\n")
        self.stay = pathlib.Path(command[command.index("--constraint") + 1]).read_text()
        status, output = self.pip(command)
        pins = dict(line.split("==") for line in self.stay.splitlines())
        names = {"jax", "jaxlib", "numpy", *(["libtpu"] if "jax[tpu]" in command else [])}
        self.installed |= {n: v.replace("*", "6") for n, v in pins.items() if n in names}
        self.installed["depth_anything_jax"] = "0.1.0"
        return subprocess.CompletedProcess(command, status, output)

    def wanted(self):
        """What pip was asked for."""
        (pip,) = [command for command in self.commands if "pip" in command]
        assert pip[:4] == [sys.executable, "-m", "pip", "install"] and "--upgrade" in pip
        return pip[pip.index("--constraint") + 2 :]

    def cell(self, monkeypatch, **loaded):
        """Run the cell; `loaded` are versions that the kernel has loaded before."""

        def kill(process, signal):
            assert process == os.getpid()
            raise Restarted

        def mount(folder):
            self.mounted.append(folder)
            shutil.move(self.folder / "away", folder)

        assert FIRST.count("sys.version_info") == 1
        code = FIRST.replace("sys.version_info", str(self.python))
        with monkeypatch.context() as patch:
            for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "PACKAGE"):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, str(value))
            for name in REPLACED:
                patch.delitem(sys.modules, name, raising=False)
            for name, old in loaded.items():
                patch.setitem(sys.modules, name, types.SimpleNamespace(__version__=old))
            if self.folder:
                patch.chdir(self.folder / "work")
                for real, name in (("/kaggle/input", "kaggle"), ("/content/drive", "drive")):
                    assert real in code
                    code = code.replace(real, str(self.folder / name))
            colab = types.ModuleType("google.colab")
            colab.drive = types.SimpleNamespace(mount=mount)
            patch.setitem(sys.modules, "google", types.ModuleType("google"))
            if "COLAB_RELEASE_TAG" in self.environment:
                patch.setitem(sys.modules, "google.colab", colab)
            patch.setattr(importlib.metadata, "version", self.version)
            patch.setattr(importlib.metadata, "requires", self.requires)
            patch.setattr(subprocess, "run", self.run)
            patch.setattr(shutil, "which", lambda name: None)  # no GPU
            patch.setattr(time, "sleep", lambda seconds: None)
            patch.setattr(os, "kill", kill)
            patch.setattr(os.path, "ismount", os.path.isdir)
            exec(compile(code, "first cell", "exec"), {})


def test_where_all_is_there_nothing_is_installed(monkeypatch, capsys):
    runtime = Runtime({"jax": "0.10.2", "depth_anything_jax": "0.1.0"})
    runtime.cell(monkeypatch, jax="0.10.2")
    ((program, *_),) = runtime.commands  # one process asks for the devices, and ends
    assert program == sys.executable
    python = sys.version.split()[0]
    assert capsys.readouterr().out == (
        f"Python {python}, jax 0.10.2, libtpu not installed\n[TpuDevice(id=0)]\n"
    )


@pytest.mark.parametrize("python, pins, numpy", [((3, 13), NEW, "2.2.*"), ((3, 11), OLD, "2.1.3")])
def test_colabs_jax_and_libtpu_are_replaced_together(python, pins, numpy, monkeypatch, capsys):
    """Its torch stays, and its numpy where jax takes it; jax 0.12 takes numpy from 2.2 on."""
    package = "depth_anything_jax @ git+https://somewhere/it"
    runtime = Runtime(COLAB, python=python, PACKAGE=package)
    runtime.cell(monkeypatch)
    assert runtime.wanted() == ["jax[tpu]", package]
    jax, libtpu, _ = pins
    assert runtime.stay == (
        f"jax=={jax}\njaxlib=={jax}\nlibtpu=={libtpu}\ntorch==2.9.0+cpu\nnumpy=={numpy}\n"
    )
    assert f"jax {jax}, libtpu {libtpu}\n[Tpu" in capsys.readouterr().out


@pytest.mark.parametrize("package", [{}, {"depth_anything_jax": "0.1.0"}], ids=["without", "with"])
def test_kaggles_forced_libtpu_gives_way_to_that_of_jax(package, monkeypatch, capsys):
    runtime = Runtime(KAGGLE | package, PACKAGE="a.whl")
    runtime.cell(monkeypatch)
    assert runtime.wanted() == ["jax[tpu]", *([] if package else ["a.whl"])]
    jax, libtpu, _ = NEW
    assert f"libtpu=={libtpu}\ntorch==2.8.0+cpu\nnumpy==2.5.5\n" in runtime.stay
    out = capsys.readouterr().out
    assert ("libtpu 0.0.17, and jax 0.12.0.1 asks for 0.0.50" in out) == bool(package)
    assert f"jax {jax}, libtpu {libtpu}\n" in out
    runtime.cell(monkeypatch)  # from the top again: nothing is left to do
    assert len([c for c in runtime.commands if "pip" in c]) == 1


@pytest.mark.parametrize("libtpu, fits", [("0.0.50", True), ("0.0.50.1", True), ("0.0.5", False),
                                          ("0.0.501", False), ("0.0.49", False)])  # fmt: skip
def test_which_libtpu_fits(libtpu, fits, monkeypatch):
    runtime = Runtime(KAGGLE | {"depth_anything_jax": "0.1.0", "libtpu": libtpu})
    runtime.cell(monkeypatch)
    assert (len(runtime.commands) == 1) == fits


def test_an_old_jax_that_is_loaded_asks_for_one_restart_at_home(monkeypatch):
    runtime = Runtime(COLAB, PACKAGE="a.whl")
    jax = re.escape(NEW[0])
    with pytest.raises(RuntimeError, match=f"jax 0.7.2 is loaded and {jax} installed: restart"):
        runtime.cell(monkeypatch, jax="0.7.2")
    assert len(runtime.commands) == 1  # it is installed already, and no process takes the TPU
    runtime.cell(monkeypatch)
    assert len(runtime.commands) == 2 and "pip" not in runtime.commands[1]


@pytest.mark.parametrize("where", [ON_COLAB, {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}])
def test_colab_and_kaggle_restart_by_themselves_once(where, monkeypatch, capsys):
    runtime = Runtime(COLAB, PACKAGE="a.whl", **where)
    with pytest.raises(Restarted):
        runtime.cell(monkeypatch, jax="0.7.2", numpy="1.26.4")
    out = capsys.readouterr().out
    assert "jax 0.7.2 is loaded" in out and "numpy 1.26.4 is loaded" in out
    assert out.endswith("this session restarts now, run all again from the top\n")
    assert len(runtime.commands) == 1
    runtime.cell(monkeypatch, jax=NEW[0])
    assert len(runtime.commands) == 2 and "pip" not in runtime.commands[1]
    # What a start-up file loads each time would make it restart for ever.
    with pytest.raises(RuntimeError, match="jax 0.7.2 is loaded"):
        runtime.cell(monkeypatch, jax="0.7.2")


def test_a_batch_of_kaggle_is_not_ended(monkeypatch):
    runtime = Runtime(COLAB, PACKAGE="a.whl", KAGGLE_KERNEL_RUN_TYPE="Batch")
    with pytest.raises(RuntimeError, match="jax 0.7.2 is loaded"):
        runtime.cell(monkeypatch, jax="0.7.2")


def test_what_cannot_be_installed_is_told(monkeypatch):
    runtime = Runtime(COLAB, PACKAGE="nowhere", run=lambda command: (1, "ERROR: no nowhere\n"))
    with pytest.raises(RuntimeError, match="(?s)pip install .* nowhere failed:.ERROR: no nowhere"):
        runtime.cell(monkeypatch)
    runtime = Runtime(COLAB, PACKAGE="a.whl")
    runtime.run = lambda command, **how: subprocess.CompletedProcess(command, 0, "")
    with pytest.raises(RuntimeError, match="pip ended well, but depth_anything_jax is not inst"):
        runtime.cell(monkeypatch)


WHEEL, OLDER, NEWER = (f"depth_anything_jax-0.{n}.0-py3-none-any.whl" for n in (1, 9, 10))
INPUT, DRIVE = "kaggle/datasets/me/depth", "drive/MyDrive"


@pytest.mark.parametrize(
    "there, expected",
    [
        (["."], "."),  # the notebook lies in the folder `work` of a checkout
        (["work"], "work"),
        (["work/code"], "work/code"),
        ([f"work/{OLDER}", f"work/{NEWER}"], f"work/{NEWER}"),
        (["work/depth_anything_jax-0.9.0-py3-none-any (1).whl", "."], "."),  # no name for pip
        ([f"work/.Trash/{WHEEL}", f"kaggle/{OLDER}"], f"kaggle/{OLDER}"),
        ([f"{INPUT}/code"], f"{INPUT}/code"),
        ([f"kaggle/depth/{WHEEL}", f"{INPUT}/code"], f"kaggle/depth/{WHEEL}"),
        ([f"{DRIVE}/{WHEEL}"], f"{DRIVE}/{WHEEL}"),
        ([f"{DRIVE}/own/sub/code", f"{DRIVE}/own/{WHEEL}"], f"{DRIVE}/own/{WHEEL}"),
        ([f"{DRIVE}/own/code"], f"{DRIVE}/own/code"),
    ],
)
def test_the_package_is_found(there, expected, tmp_path, monkeypatch, capsys):
    """A wheel as it lies; of a checkout, a copy without what a run may have left in it."""
    copies = []

    def pip(command):
        copies.extend(sorted(p.name for p in pathlib.Path(command[-1]).glob("*")))
        return 0, ""

    root = tmp_path / "root"
    for name in ("work", "kaggle", "away"):
        (root / name).mkdir(parents=True)
    for name in there:
        path = root / name.replace("drive/", "away/")  # not mounted yet
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".whl":
            path.touch()
        else:
            shutil.copytree(make_checkout(tmp_path / "made"), path, dirs_exist_ok=True)
            shutil.rmtree(tmp_path / "made")
            (path / "runs").mkdir()
    runtime = Runtime(COLAB, pip, root, **ON_COLAB)
    runtime.cell(monkeypatch)
    assert f"installing {(root / expected).resolve()}\n" in capsys.readouterr().out
    assert bool(runtime.mounted) == expected.startswith("drive")  # asks the person: the last resort
    if expected.endswith(".whl"):
        assert runtime.wanted()[1] == str(root / expected)
    else:
        assert copies == sorted(["LICENSE", "README.md", "configs", "depth_anything_jax",
                                 "pyproject.toml", "setup.py"])  # fmt: skip


def test_package_names_a_folder(tmp_path, monkeypatch):
    folder = make_checkout(tmp_path / "mine")
    seen = []
    runtime = Runtime(COLAB, lambda command: (seen.append(command[-1]), (0, ""))[1],
                      PACKAGE=f"{folder}[tpu,eval]")  # fmt: skip
    runtime.cell(monkeypatch)
    assert seen[0].endswith("/package[tpu,eval]") and not seen[0].startswith(str(folder))


@pytest.mark.parametrize("there", [WHEEL, "code"])
def test_a_package_on_the_drive_is_installed_after_the_drive_is_mounted(
    there, tmp_path, monkeypatch
):
    root, seen = tmp_path / "root", []
    (root / "work").mkdir(parents=True)
    if there == "code":
        make_checkout(root / "away" / "MyDrive" / there)
    else:
        (root / "away" / "MyDrive").mkdir(parents=True)
        (root / "away" / "MyDrive" / there).touch()
    package = str(root / "drive" / "MyDrive" / there)

    def pip(command):
        seen.append((command[-1], os.path.exists(package), pathlib.Path(command[-1]).is_dir()))
        return 0, ""

    runtime = Runtime(COLAB, pip, root, PACKAGE=package, **ON_COLAB)
    runtime.cell(monkeypatch)
    ((asked, mounted, copy),) = seen
    assert runtime.mounted == [str(root / "drive")] and mounted
    assert copy == (there == "code") and (asked == package) == (there == WHEEL)


def test_a_read_only_checkout_is_copied_into_folders_that_pip_can_write(tmp_path, monkeypatch):
    folder = make_checkout(tmp_path / "mine")
    inside = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    before = sorted(folder.rglob("*"))
    for path in inside:
        path.chmod(0o555)
    modes = []

    def pip(command):
        copy = pathlib.Path(command[-1])
        modes.extend(p.stat().st_mode & 0o200 for p in (copy, *copy.rglob("*")) if p.is_dir())
        return 0, ""

    Runtime(COLAB, pip, PACKAGE=str(folder)).cell(monkeypatch)
    for path in inside:
        path.chmod(0o755)
    assert len(modes) == len(inside) and all(modes) and sorted(folder.rglob("*")) == before


def test_where_no_package_is_all_places_are_told(tmp_path, monkeypatch):
    for name in ("work/deep/deeper/deepest", "away/MyDrive"):  # and no Kaggle
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work/deep/deeper/deepest" / WHEEL).touch()  # too far down
    runtime = Runtime(COLAB, folder=tmp_path, **ON_COLAB)
    with pytest.raises(RuntimeError, match="no checkout of depth_anything_jax") as error:
        runtime.cell(monkeypatch)
    for place in ("work (2)", "kaggle (4)", "drive/MyDrive (2)"):
        assert f"{tmp_path}/{place}" in str(error.value)
    assert "set PACKAGE in this cell" in str(error.value) and not runtime.commands
    with pytest.raises(RuntimeError, match="no checkout"):
        runtime.cell(monkeypatch)
    assert runtime.mounted == [f"{tmp_path}/drive"]  # once


def test_what_the_cell_asks_for_is_what_jax_asks_for_and_what_is_tested():
    jax, libtpu, numpy = OLD if sys.version_info < (3, 12) else NEW
    if importlib.metadata.version("jax") == jax:  # constraints.txt, which another test reads
        asks = importlib.metadata.requires("jax")
        (series,) = [re.match(r"libtpu==(.+)\.\*", r)[1] for r in asks if r.startswith("libtpu")]
        assert libtpu == series or libtpu.startswith(f"{series}.")
        assert f"numpy>={numpy}" in asks
    markers = {"<": '; python_version < "3.12"', ">=": '; python_version >= "3.12"'}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in ("jax", "jaxlib"):
        assert f"{name}=={OLD[0]}{markers['<']}\n" in text
        assert f"{name}=={NEW[0]}{markers['>=']}\n" in text
    for runtime in RUNTIMES:
        installs = pinned(f"{runtime}-installs")
        assert [installs[n] for n in ("jax", "jaxlib", "libtpu")] == [NEW[0], NEW[0], NEW[1]]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    least = re.search(r'"jax>=([\d.]+)"', setup)[1].replace(".", ", ")
    assert f"< ({least})" in FIRST


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", RUNTIMES)
def test_the_newest_of_all_else_resolves(name, tmp_path, monkeypatch):
    """pip itself, in an environment that claims to hold a runtime's versions; nothing is installed.

    Unlike in test_notebooks_runtimes.py, with torch and without our pins: what a person gets today.
    """
    wanted, more = RUNTIMES[name]
    python = environment(tmp_path / "runtime", wanted)
    (site,) = (tmp_path / "runtime" / "lib").glob("python*/site-packages")
    there = pinned(f"{name}-brings") | more
    for package, version in there.items():
        folder = site / f"{package}-{version}.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        if package == "jax":  # may stay, and then says which libtpu it asks for
            needs = f"libtpu=={SERIES[version]}.*"
            metadata += f'Provides-Extra: tpu\nRequires-Dist: {needs}; extra == "tpu"\n'
        (folder / "METADATA").write_text(metadata)
    real = subprocess.run

    def pip(command):
        more = ("--dry-run", "--report", str(tmp_path / "report.json"))
        done = real([python, *command[1:], *more], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    Runtime(
        there,
        pip,
        python=tuple(map(int, wanted.split("."))),
        PACKAGE=make_checkout(tmp_path / "mine"),
    ).cell(monkeypatch)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["environment"]["python_version"] == wanted
    new = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    print(new)
    assert new["libtpu"] == NEW[1] and {"depth_anything_jax", "tensorflow-datasets"} <= new.keys()
    assert not [n for n in new if n in ("torch", "protobuf") or n.startswith("nvidia")]
