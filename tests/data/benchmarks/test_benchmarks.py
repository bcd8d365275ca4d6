"""Evaluation sets: names, options, counts and cards; what all readers share."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from depth_anything_jax.data import benchmarks
from depth_anything_jax.data.benchmarks import BenchmarkError, base
from depth_anything_jax.data.benchmarks.document import document
from depth_anything_jax.data.file_formats.formats import FormatError
from depth_anything_jax.data.sources.base import Source, Subset
from tests.helpers.benchmark_files import check_records, write_image, write_nyu

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_names_and_options_name_the_nearest(tmp_path):
    with pytest.raises(BenchmarkError, match="unknown evaluation set 'kiti'; did you mean 'kitti'"):
        benchmarks.make("kiti", tmp_path)
    with pytest.raises(BenchmarkError, match="one of nyu, kitti, .*rgbd"):
        benchmarks.make("???", tmp_path)
    with pytest.raises(BenchmarkError, match="no option 'parital'; did you mean 'partial'"):
        benchmarks.make("nyu", tmp_path, parital=True)
    with pytest.raises(BenchmarkError, match="no option 'xyz': it takes depth, form, partial"):
        benchmarks.make("nyu", tmp_path, xyz=1)
    with pytest.raises(BenchmarkError, match="depth must be one of raw, filled, got 'row'"):
        benchmarks.make("nyu", tmp_path, depth="row")
    with pytest.raises(BenchmarkError, match="moge needs the option 'set': set=NYUv2"):
        benchmarks.make("moge", tmp_path)
    with pytest.raises(BenchmarkError, match="nyu: no folder .*nowhere"):
        benchmarks.make("nyu", tmp_path / "nowhere")


LOOKED_FOR = {
    "nyu": "nyu_depth_v2_labeled.mat, or official_splits/test/SCENE/rgb_NNNNN.jpg",
    "sintel": "training/final/SEQUENCE/frame_NNNN.png",
    "eth3d": "SCENE/images/dslr_images/NAME.JPG",
    "diode": "val/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/NAME.png",
    "ddad": "*_rgb.png and *_depth.npy",
    "diml": "indoor/test/LR/SCENE/color/NAME_c.png, outdoor/test/LR/outleft/*.png",
    "ibims": "ibims1_core_raw/rgb/NAME.png",
    "sunrgbd": "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat, or rgb/img-NNNNNN.jpg",
    "scannet": "sceneNNNN_NN/color/N.jpg",
    "tum": "rgbd_dataset_*/rgb.txt and depth.txt",
    "middlebury": "SCENE/im0.png",
    "diw": "DIW_Annotations/DIW_test.csv or DIW_test.csv",
    "da2k": "annotations.json",
    "moge": "NYUv2/.index.txt",
}


@pytest.mark.parametrize("name", benchmarks.READERS)
def test_a_wrong_folder_says_what_was_looked_for_and_what_is_there(tmp_path, name):
    (tmp_path / "holiday.avi").touch()
    (tmp_path / "photos").mkdir()
    options = {"set": "NYUv2"} if name == "moge" else {}
    with pytest.raises(BenchmarkError) as caught:
        benchmarks.make(name, tmp_path, **options)
    message = str(caught.value)
    if name not in LOOKED_FOR:  # a list comes first
        assert message.startswith(f"{name}: needs list_file: ")
        return
    assert f"looked for {LOOKED_FOR[name]}" in message and f"below {tmp_path} and" in message
    assert "that folder holds holiday.avi, photos/." in message


def test_a_part_of_a_set_has_to_be_asked_for(tmp_path):
    expected = write_nyu(tmp_path)
    with pytest.raises(BenchmarkError, match=r"3 images below .* where the split has 654.*partial"):
        benchmarks.make("nyu", tmp_path)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    assert reader.partial and reader.expected == 654 and len(reader) == 3
    check_records(reader, expected)
    missing = tmp_path / "official_splits/test/office_1/sync_depth_00009.png"
    missing.unlink()
    with pytest.raises(BenchmarkError, match="1 of 3 images lack a file.*sync_depth_00009.png"):
        benchmarks.make("nyu", tmp_path)
    assert len(benchmarks.make("nyu", tmp_path, partial=True)) == 2


def test_more_images_than_the_split_has_is_never_accepted(tmp_path, monkeypatch):
    """Exactly as many is a whole set; one more is none, whatever was asked for."""
    expected = write_nyu(tmp_path)
    settle = base.Reader._settle

    def expect(count):
        def patched(self, items, **options):
            settle(self, items, **options | {"expected": count})

        monkeypatch.setattr(base.Reader, "_settle", patched)

    expect(3)
    reader = benchmarks.make("nyu", tmp_path)
    assert not reader.partial and len(reader) == len(expected)
    expect(2)
    for partial in (False, True):
        with pytest.raises(BenchmarkError, match="3 images .*has 2: something else lies among"):
            benchmarks.make("nyu", tmp_path, partial=partial)


def test_readers_are_sources_that_workers_can_receive(tmp_path):
    write_nyu(tmp_path)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    assert isinstance(reader, Source) and reader.name == "nyu"
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again[1]["depth"], reader[1]["depth"])
    part = Subset(reader, [2])
    assert part[0]["key"] == reader.key(2) and part[0]["scene"] == "office_1"
    assert part[0]["domain"] == "indoor"


def test_frames_are_in_the_order_of_their_numbers():
    names = ["s10/2.png", "s9/10.png", "s9/9.png", "a.png"]
    assert sorted(names, key=base.natural) == ["a.png", "s9/9.png", "s9/10.png", "s10/2.png"]


def test_sky_is_no_measurement_and_depths_stay_as_they_are():
    values = np.array([[3, 10, 0, -1, np.inf, np.nan, 7, 80]], np.float32)
    sky = np.array([[0, 0, 0, 0, 1, 0, 1, 0]], bool)
    valid = np.array([[1, 1, 1, 1, 1, 1, 1, 0]], bool)
    fields = base.depth_fields(values, valid=valid, sky=sky)
    np.testing.assert_array_equal(fields["depth"], [[3, 10, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(fields["valid"], [[1, 1, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(fields["sky"], sky)


def test_an_image_of_another_view_is_refused(tmp_path):
    write_nyu(tmp_path)
    write_image(tmp_path / "official_splits/test/bathroom/rgb_00045.jpg", 8, 6)
    reader = benchmarks.make("nyu", tmp_path, partial=True)
    with pytest.raises(FormatError, match="rgb_00045.jpg: the image is 8x6 and its depth 6x8"):
        reader[0]


def test_cards_are_complete_and_the_document_is_theirs():
    cards = benchmarks.cards()
    assert set(cards) == set(benchmarks.READERS)
    for name, card in cards.items():
        texts = [getattr(card, f) for f in ("title", "split", "images", "units", "layout", "where")]
        texts += [card.licence, card.size, card.citation, *card.traps]
        assert card.traps and all(len(t) > 2 for t in texts), name
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    command = "python -m depth_anything_jax.data.benchmarks.document > docs/benchmarks.md"
    assert page == document(), f"the cards have changed: {command}"


def test_the_page_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "depth_anything_jax.data.benchmarks.document"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.stdout == document(), done.stderr[-1000:]
