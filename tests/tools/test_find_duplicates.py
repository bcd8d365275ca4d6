"""find_duplicates: what it writes and says, going on after a kill, and what it refuses."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data.scenes.render import render
from tests.helpers import planted_copies

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("find_duplicates", ROOT / "tools/find_duplicates.py")
find_duplicates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(find_duplicates)


@pytest.fixture
def sets(tmp_path):
    """Ten training images, of which 3 and 7 are copies of images 1 and 0 of the evaluation set."""
    rng = np.random.default_rng(0)
    scored = [render("A", 11, i, 80)["image"] for i in range(3)]
    training = [render("B", 12, i, 80)["image"] for i in range(10)]
    training[3] = planted_copies.mirrored(scored[1], rng)
    training[7] = planted_copies.recompressed(planted_copies.cropped(scored[0], rng), rng)
    for name, images in (("train", training), ("test", scored)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    return f"folder:{tmp_path}/train", f"folder:{tmp_path}/test"


def lines(out):
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]


def test_pairs_are_written_shown_and_counted(sets, tmp_path, capsys):
    out = tmp_path / "out"
    assert find_duplicates.main([*sets, "--out", str(out)]) == 1
    assert [(p["training"], p["evaluation"], p["mirrored"]) for p in lines(out)] == [
        ("3.png", "1.png", True),
        ("7.png", "0.png", False),
    ]
    assert "2 pairs; 2 images of folder:" in capsys.readouterr().out
    with Image.open(out / "pairs.png") as picture:
        assert picture.height > 2 * 224
    assert find_duplicates.main([sets[1], sets[1], "--out", str(tmp_path / "same")]) == 0


def test_a_killed_search_goes_on_and_finds_the_same(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(find_duplicates, "CHUNK", 4)
    whole, out = tmp_path / "whole", tmp_path / "out"
    find_duplicates.find(*sets, whole, tell=lambda text: None)

    def killed(text):
        if text.startswith("4 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates.find(*sets, out, tell=killed)
    with open(out / "pairs.jsonl", "a") as file:
        file.write('{"half a li')  # of the next chunk
    told = []
    find_duplicates.find(*sets, out, tell=told.append)
    assert (out / "pairs.jsonl").read_text() == (whole / "pairs.jsonl").read_text()
    assert [t.split(" of ")[0] for t in told[1:]] == ["8", "10"]
    again = []
    assert len(find_duplicates.find(*sets, out, tell=again.append).pairs) == 2 and again == []


def test_a_folder_of_another_search_is_refused(sets, tmp_path):
    out = tmp_path / "out"
    find_duplicates.find(*sets, out, tell=lambda text: None)
    (tmp_path / "train/9.png").unlink()
    with pytest.raises(ValueError, match="another search.*records.*10.*9.*--out"):
        find_duplicates.find(*sets, out, tell=print)
    (out / "progress.json").unlink()
    with pytest.raises(ValueError, match="progress.json is not"):
        find_duplicates.find(*sets, out, tell=print)


def test_images_that_cannot_be_read_are_named(sets, tmp_path, capsys):
    (tmp_path / "train/7.png").write_bytes(b"no picture")
    (tmp_path / "train/3.png").write_bytes(b"")
    assert find_duplicates.main([*sets, "--out", str(tmp_path / "out")]) == 3
    captured = capsys.readouterr()
    assert "3.png" in captured.err and "7.png" in captured.err
    assert "0 pairs" in captured.out and "2 cannot be read" in captured.out


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="find_duplicates: .*nowhere"):
        find_duplicates.main([f"folder:{tmp_path}/nowhere", "folder:x", "--out", str(tmp_path)])
