"""The Dockerfile and GitHub's workflows name files, extras, make targets and Pythons that exist.

Neither can run here. Checked by hand on 2026-12-01: hadolint 2.15.1 on the Dockerfile, and
check-jsonschema 0.39.0 with vendor.github-workflows on the workflows, both without a finding.
"""

import fnmatch
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def copied() -> list[str]:
    """What the Dockerfile's COPY instructions take from the repository."""
    lines = re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
    return [name for line in lines for name in line.split()[:-1]]


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves a path out: its last matching line decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            found = not line.startswith("!")
    return found


def test_what_the_image_is_made_of_is_there_and_not_ignored():
    assert {"setup.py", "depth_anything_jax", "configs", "constraints.txt"} <= set(copied())
    for name in copied():
        assert (ROOT / name).exists() and not ignored(name), name
    for name in ("tests", ".git", "demo", "runs", "notebooks", "site"):
        assert ignored(name), name
    # What setup.py itself reads, pip finds in the image.
    for name in re.findall(r'HERE / "([\w.]+)"', SETUP) + ["pyproject.toml", "LICENSE"]:
        assert name in copied(), name


def test_the_images_python_extras_and_program_exist():
    extras = re.findall(r"(?:--build-arg |^ARG )EXTRAS=(\S+)", DOCKERFILE, re.MULTILINE)
    assert len(extras) == 2  # the default, and the example with CUDA
    known = re.findall(r'^        "(\w+)": [\[T]', SETUP, re.MULTILINE)  # a list, or TRAIN
    assert set(",".join(extras).split(",")) <= set(known)
    (program,) = re.findall(r'^ENTRYPOINT \["(\S+)"\]$', DOCKERFILE, re.MULTILINE)
    assert f'"{program} = ' in SETUP
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"Python :: {python}" in SETUP


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_call_make_as_people_do(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    settings = re.findall(r"^(\w+) [?:]?=", MAKEFILE, re.MULTILINE)
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands and job["timeout-minutes"]
    for command in commands:
        make, target, *variables = command.replace("${{ ", "{").replace(" }}", "}").split()
        assert make == "make" and target in targets
        assert {v.partition("=")[0] for v in variables} <= set(settings) | {"PYTHON"}


def test_every_python_of_the_package_is_tested():
    workflow = yaml.safe_load(WORKFLOWS[0].read_text(encoding="utf-8"))
    rows = workflow["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in rows] == re.findall(r'Python :: (3\.\d+)"', SETUP)
    assert [row["torch"] for row in rows] == [1, 0, 0]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("make test")
