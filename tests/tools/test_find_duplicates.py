"""find_duplicates: what it writes and says, going on after a kill, and what it refuses."""

import contextlib
import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data import near_copies, registry
from depth_anything_jax.data.scenes.render import render
from depth_anything_jax.utils import folder_lock
from tests.helpers import planted_copies

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("find_duplicates", ROOT / "tools/find_duplicates.py")
find_duplicates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(find_duplicates)


@pytest.fixture(scope="module")
def pictures():
    """Ten training images, of which 3 and 7 are copies of images 1 and 0 of the evaluation set."""
    rng = np.random.default_rng(0)
    scored = [render("A", 11, i, 80)["image"] for i in range(3)]
    training = [render("B", 12, i, 80)["image"] for i in range(10)]
    training[3] = planted_copies.mirrored(scored[1], rng)
    training[7] = planted_copies.recompressed(planted_copies.cropped(scored[0], rng), rng)
    return {"train": training, "test": scored}


@pytest.fixture
def sets(pictures, tmp_path):
    for name, images in pictures.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    return f"folder:{tmp_path}/train", f"folder:{tmp_path}/test"


def lines(out):
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]


def test_pairs_are_written_shown_and_counted(sets, tmp_path, capsys):
    out = tmp_path / "out"
    assert find_duplicates.main([*sets, "--out", str(out)]) == 1
    assert [(p["training"], p["evaluation"], p["changes"]) for p in lines(out)] == [
        ("3.png", "1.png", ["mirrored"]),
        ("7.png", "0.png", ["cropped"]),
    ]
    said = capsys.readouterr().out
    assert "2 pairs; 2 of 3 images of folder:" in said and "  1 mirrored\n" in said
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pairs_by_change"] == {"mirrored": 1, "cropped": 1}
    assert (summary["training_images"], summary["evaluation_images_with_a_copy"]) == (10, 2)
    with Image.open(out / "pairs.png") as picture:
        assert picture.height > 2 * 224
    assert find_duplicates.main([sets[1], sets[1], "--out", str(tmp_path / "same")]) == 0


def test_a_pair_within_one_set_is_found_once_and_from_either_image(sets, tmp_path, monkeypatch):
    """Aligning is not symmetric: of some pairs only the later image finds the earlier one."""
    source = f"folder:{tmp_path}/train"
    for name in ("3.png", "7.png"):  # copies of what stands before them
        (tmp_path / "train" / name).write_bytes((tmp_path / "train/2.png").read_bytes())
    find_duplicates.find(source, source, tmp_path / "all", tell=lambda text: None)
    assert [p["positions"] for p in lines(tmp_path / "all")] == [[2, 3], [2, 7], [3, 7]]
    copies = near_copies.Collection.copies

    def later(self, one, position):
        return [c for c in copies(self, one, position) if c.second <= position]

    monkeypatch.setattr(near_copies.Collection, "copies", later)
    find_duplicates.find(source, source, tmp_path / "later", tell=lambda text: None)
    assert [p["positions"] for p in lines(tmp_path / "later")] == [[3, 2], [7, 2], [7, 3]]


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


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_set_that_has_changed_is_refused_by_name(sets, tmp_path, monkeypatch, which, finished):
    monkeypatch.setattr(find_duplicates, "CHUNK", 4)
    out = tmp_path / "out"

    def tell(text):
        if text.startswith("4 of") and not finished:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        find_duplicates.find(*sets, out, tell=tell)
    before = (out / "pairs.jsonl").read_bytes()
    image = tmp_path / which / "1.png"
    image.write_bytes((tmp_path / which / "0.png").read_bytes())
    os.utime(image, ns=(1, 2**62))
    with pytest.raises(ValueError, match=f"files of folder:.*{which} have changed: 1.png\\)"):
        find_duplicates.find(*sets, out, tell=print)
    image.rename(image.with_name("1b.png"))
    with pytest.raises(ValueError, match=f"names of the images of folder:.*{which} have changed"):
        find_duplicates.find(*sets, out, tell=print)
    assert (out / "pairs.jsonl").read_bytes() == before


def test_two_searches_in_one_folder_are_refused(sets, tmp_path):
    with folder_lock.locked(tmp_path / "out"), pytest.raises(SystemExit, match="in use by process"):
        find_duplicates.main([*sets, "--out", str(tmp_path / "out")])


def test_an_evaluation_set_without_metres_is_searched(sets, tmp_path):
    """DIW has pairs of points: no depth to train on, and images that may have leaked."""
    folder = tmp_path / "diw"
    (folder / "DIW_test").mkdir(parents=True)
    rows = []
    for i in range(2):
        image = Image.open(tmp_path / "test" / f"{i}.png")
        image.save(folder / f"DIW_test/{i}.thumb", format="JPEG")
        rows += [f"./DIW_test/{i}.thumb", "5,6,7,8,<,80,80"]
    (folder / "DIW_test.csv").write_text("\n".join(rows))
    text = f"benchmark:diw?path={folder}"
    with pytest.raises(ValueError, match="no depth in metres"):
        registry.make(registry.parse(text))
    out = tmp_path / "out"
    assert find_duplicates.main([sets[0], text, "--out", str(out)]) == 1
    assert [(p["training"], p["evaluation"]) for p in lines(out)] == [
        ("3.png", "DIW_test/1.thumb"),
        ("7.png", "DIW_test/0.thumb"),
    ]
    (folder / "DIW_test/0.thumb").write_bytes((folder / "DIW_test/1.thumb").read_bytes())
    with pytest.raises(SystemExit, match="files of benchmark:diw.* have changed"):
        find_duplicates.main([sets[0], text, "--out", str(out)])


def test_images_that_cannot_be_read_are_named(sets, tmp_path, capsys):
    (tmp_path / "train/7.png").write_bytes(b"no picture")
    (tmp_path / "train/3.png").write_bytes(b"")
    assert find_duplicates.main([*sets, "--out", str(tmp_path / "out")]) == 3
    captured = capsys.readouterr()
    assert "3.png" in captured.err and "7.png" in captured.err
    assert "0 pairs" in captured.out and "2 images cannot be read" in captured.out
    (tmp_path / "test/2.png").write_bytes(b"no picture")
    assert find_duplicates.main([*sets, "--out", str(tmp_path / "again")]) == 3
    assert "test: 2.png: " in capsys.readouterr().err


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="find_duplicates: .*nowhere"):
        find_duplicates.main([f"folder:{tmp_path}/nowhere", "folder:x", "--out", str(tmp_path)])
