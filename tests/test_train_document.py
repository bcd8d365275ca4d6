"""Every command of docs/train.md runs, in its order, at a tiny size and on made-up pictures.

bash reads the document's blocks, with our programs replaced by functions that write their words
down; the words are then run with the overrides below, in one process.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "train.md"
RELEASED = "depth-anything/Depth-Anything-V2-Small-hf"
# Instead of released weights, which are not at hand: the demo's encoder, and what belongs to it.
TINY = [
    "--config.model.variant=demo", "--config.init_parts=encoder", "--config.input_size=28",
    "--config.total_steps=2", "--config.optim.warmup=1", "--config.checkpoint.every=2",
    "--config.eval.every=2", "--config.log.images=0", "--config.log.tensorboard=False",
]  # fmt: skip
STUBS = """
write() { printf '%s\\0' "$@" >> "$WORDS"; printf '\\n\\0' >> "$WORDS"; }
python() { write python "$@"; }
depth-anything() { write depth-anything "$@"; }
"""


def commands(document: pathlib.Path, folder: pathlib.Path) -> list[list[str]]:
    """The words of each call of our programs, as bash understands the document's blocks."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    words = folder / "words"
    words.touch()
    bash = shutil.which("bash") or pytest.skip("no bash, which reads the document's commands")
    done = subprocess.run(
        [bash, "-eu", "-c", STUBS + "".join(blocks)],
        cwd=folder, env={"WORDS": str(words), "PATH": "/nowhere"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = words.read_text(encoding="utf-8").split("\0\n\0")
    return [call.split("\0") for call in calls if call]


def tiny(words: list[str]) -> list[str]:
    """The same command with demo weights and few pixels."""
    words = [word.replace(RELEASED, "demo-encoder") for word in words]
    if "--size" in words:
        words[words.index("--size") + 1] = "28"
    if words[:2] == ["python", "-m"] and words[2].endswith(".train"):
        words += TINY
    return words


def make_pictures(folder: pathlib.Path) -> None:
    """Six pairs of two scenes, with a manifest, and five photos."""
    rng = np.random.default_rng(0)
    entries = []
    for name in ("pairs", "photos"):
        (folder / name).mkdir()
    for i in range(11):
        image = cv2.resize(rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8), (40, 32))
        pair = i < 6
        path = folder / ("pairs" if pair else "photos") / f"{i}.jpg"
        assert cv2.imwrite(str(path), image)
        if pair:
            depth = cv2.resize(rng.uniform(1, 5, (3, 4)), (40, 32))
            assert cv2.imwrite(str(path.with_suffix(".png")), (depth * 1000).astype(np.uint16))
            scene, split = ("office", "train") if i < 4 else ("kitchen", "test")
            entries.append({
                "rgb": path.name, "depth": f"{i}.png", "fmt": "nyu", "domain": "indoor",
                "scene": scene, "split": split,
            })  # fmt: skip
    (folder / "pairs" / "manifest.json").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder after all commands."""
    folder = tmp_path_factory.mktemp("train")
    make_pictures(folder)
    (folder / "tools").symlink_to(ROOT / "tools")
    (folder / "commands.json").write_text(json.dumps([tiny(c) for c in commands(DOCUMENT, folder)]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.run_commands", "commands.json"],
        cwd=folder, capture_output=True, text=True,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
            "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "DEPTH_ANYTHING_CACHE": "",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_every_command_of_the_document_runs(written):
    asked = json.loads((written / "commands.json").read_text())
    printed = (written / "printed.txt").read_text()
    assert len(asked) >= 7 and printed.count("=== exit 0") == len(asked)
    assert "nothing wrong was found" in printed


def test_the_commands_write_what_the_document_says(written):
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in ("check/index.html", "labels/photos/contact.png", "scores/report.html"):
        assert f"`{path}`" in text and (written / path).is_file()
    for name in ("teacher", "student"):
        assert (written / "runs" / name / "metrics.jsonl").is_file()
    assert (written / "student_hf" / "config.json").is_file()
    assert len(list((written / "depth").glob("*.side-by-side.png"))) == 5
    scores = json.loads((written / "scores" / "scores.json").read_text())
    assert "runs/teacher" in json.dumps(scores) and "runs/student" in json.dumps(scores)


def test_the_exported_student_loads_as_the_document_says(written, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(written)
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict = {}
    exec(block, names)
    assert names["model"].num_parameters() > 0


def test_the_readme_has_the_same_commands(tmp_path):
    """Its five are those of the document, without what only the longer page explains."""
    readme = commands_of_training(ROOT / "README.md", tmp_path / "readme")
    page = commands_of_training(DOCUMENT, tmp_path / "page")
    assert len(readme) == 5
    for words in readme:
        (same,) = (c for c in page if c[2] == words[2] and target(c) == target(words))
        assert set(words) <= set(same), sorted(set(words) - set(same))


def target(words: list[str]) -> str:
    """Which of two commands of one program it is: what it writes."""
    return next((w for w in words if w.startswith("--workdir")), "")


def commands_of_training(document: pathlib.Path, folder: pathlib.Path) -> list[list[str]]:
    """The commands between the looking and the scoring."""
    folder.mkdir()
    text = document.read_text(encoding="utf-8")
    start = text.index("## Train on your own data") if document.name == "README.md" else 0
    end = text.index("\n## ", start + 1) if start else len(text)
    (folder / "part.md").write_text(text[start:end])
    return [c for c in commands(folder / "part.md", folder) if c[1:2] == ["-m"]]
