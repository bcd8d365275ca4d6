"""check_data: what it tells of good data, what it finds wrong with bad ones, its page."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from depth_anything_jax import check_data
from depth_anything_jax.data import inspection, registry
from depth_anything_jax.data.scenes.source import SceneSource

COUNT = 4


@pytest.fixture
def pairs(tmp_path):
    """Writes rendered pairs with depth in millimetres; gives the folder."""
    folder = tmp_path / "pairs"
    for sub in ("rgb", "depth"):
        (folder / sub).mkdir(parents=True)
    for i, record in enumerate(SceneSource("A", COUNT, size=56)[j] for j in range(COUNT)):
        Image.fromarray(record["image"]).save(folder / "rgb" / f"{i}.png")
        write(folder, i, np.minimum(record["depth"], 60))
    return folder


def write(folder, i, metres):
    Image.fromarray(np.round(1000 * metres).astype(np.uint16)).save(folder / "depth" / f"{i}.png")


def spec(folder, more=""):
    return f"pairs:{folder}/rgb?depths={folder}/depth&fmt=nyu{more}"


def run(capsys, *arguments):
    """(exit status, what was printed)"""
    status = 0
    try:
        check_data.main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().out


def test_good_data_are_described_and_drawn(pairs, tmp_path, capsys):
    (pairs / "rgb" / "notes.heic").write_text("x")
    (pairs / "rgb" / ".hidden").write_text("x")
    turned = Image.open(pairs / "rgb" / "0.png")
    exif = turned.getexif()
    exif[0x0112] = 3
    (tmp_path / "photos").mkdir()
    turned.save(tmp_path / "photos" / "turned.jpg", exif=exif)
    turned.convert("L").save(tmp_path / "photos" / "grey.png")
    out = tmp_path / "out <b>"
    status, text = run(capsys, spec(pairs), tmp_path / "photos", "--out", out)
    assert status == 0 and "nothing wrong was found" in text
    least = min(r["depth"][r["valid"]].min() for r in registry.make(registry.parse(spec(pairs))))
    for expected in (
        "4 records, 4 read", "images 56x56", f"4 labels of depth; m, percentiles 0 %: {least:.4g},",
        "cameras 0 of 4", "files that are not read: 1 .heic",
        "2 records, 2 read", "1 images are grey", "EXIF orientation 3: 1 images",
    ):  # fmt: skip
        assert expected in text, expected
    page = (out / "index.html").read_text()
    assert "Nothing was found" in page and page.count("<img") == 2
    assert np.asarray(Image.open(out / "source0.png")).shape[0] == COUNT * (224 + 34)


def sentinel(folder):
    for i in range(COUNT):
        depth = np.asarray(Image.open(folder / "depth" / f"{i}.png")).copy()
        depth[:6] = 65535
        Image.fromarray(depth).save(folder / "depth" / f"{i}.png")


def cut_short(folder):
    file = folder / "rgb" / "1.png"
    file.write_bytes(file.read_bytes()[:200])


BAD = {
    "sentinel": (sentinel, "", "3 of 4 labels .*65.535 in 1.*no measurement.*as invalid="),
    "metres as kilometres": (None, "&scale=0.001", "median depth is .*e.06 m: .*'scale'"),
    "constant": (lambda f: write(f, 2, np.ones((56, 56))), "", r"1 of 4 labels \(2.png\) hold one"),
    "empty": (lambda f: write(f, 3, np.zeros((56, 56))), "", r"1 of 4 labels \(3.png\) have fewer"),
    "cut short": (cut_short, "", "1 of 4 records cannot be read .*truncated.* First: 1.png"),
    "another view": (lambda f: write(f, 0, np.ones((28, 56))), "", "1 of 4 .*not the same view"),
    "no such field": (None, "&scal=3", "no field 'scal'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_listed_and_ends_with_1(case, pairs, capsys):
    spoil, more, message = BAD[case]
    if spoil is not None:
        spoil(pairs)
    status, text = run(capsys, spec(pairs, more))
    assert status == 1
    (line,) = text.partition("1 things are wrong:\n")[2].splitlines()
    assert re.search(message, line), line
    if case != "no such field":  # the trainer tells it too
        told = inspection.line({"labelled": [registry.make(registry.parse(spec(pairs, more)))]})
        assert re.search(message, told.partition("LOOKS WRONG")[2])


def test_images_of_an_evaluation_set_are_found_among_those_of_training(pairs, tmp_path, capsys):
    scored = tmp_path / "scored"
    scored.mkdir()
    Image.open(pairs / "rgb" / "2.png").resize((90, 90)).save(scored / "again.jpg", quality=60)
    mirrored = Image.open(pairs / "rgb" / "1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(scored / "mirrored.png")
    other = SceneSource("B", 1, size=56, seed=7)[0]["image"]
    Image.fromarray(other).save(scored / "other.png")
    status, text = run(capsys, spec(pairs), "--eval", scored)
    assert status == 1 and "2 of 3 images of" in text
    assert "1.png = mirrored.png" in text and "2.png = again.jpg" in text
    (scored / "again.jpg").unlink()
    (scored / "mirrored.png").unlink()
    assert run(capsys, spec(pairs), "--eval", scored)[0] == 0


def test_a_line_for_the_trainer_reads_a_few_records(pairs):
    read = []

    class Counted(SceneSource):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    images = Counted("B", 100, size=28, labelled=False)
    labelled = registry.make(registry.parse(spec(pairs)))
    told = inspection.line({"labelled": [labelled], "unlabelled": [images]})
    assert sorted(read) == [0, 33, 66, 99]
    assert "labelled rgb, 4 records, 56x56, depth " in told and " m, " in told and "% valid" in told
    assert told.endswith("100 records, 28x28")


def test_kinds_are_told_apart(pairs, tmp_path, capsys):
    entries = [
        {"rgb": f"rgb/{i}.png", "depth": f"depth/{i}.png", "fmt": "png16", "scale": 100,
         "kind": "disparity" if i else "depth"}
        for i in range(COUNT)
    ]  # fmt: skip
    (pairs / "manifest.json").write_text(json.dumps(entries))
    status, text = run(capsys, f"rgbd:{pairs}", "--records", 2)
    assert status == 0 and "4 records, 2 read" in text
    assert "1 labels of depth; m, percentiles" in text and "1 labels of disparity; perc" in text
