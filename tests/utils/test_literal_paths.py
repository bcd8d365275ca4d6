"""Odd names of folders: epath's glob, stores and data sets of records in them."""

import os
import pathlib
import pickle
import shutil

import pytest
from etils import epath

from depth_anything_jax.data import registry, shards
from depth_anything_jax.data.pseudo_labels import label_store
from depth_anything_jax.utils.literal_paths import literal

OLD = pathlib.Path(__file__).parent.parent / "fixtures" / "old_data"
# Characters with a meaning in shells, globs, URLs, ArrayRecord and "type:path?field=value".
ODD = ("run[1]", "[!a]", "[0:9]", "a*b", "a?b", "a\\b", "a b", "a#b", "a%20b", "é", "a&b", "a:b",
       "a'b", 'a"b', "{a,b}", "~x", "a\nb", "$x;y", "a=b,c@d", "-x")  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_records_are_found_in_a_folder_of_any_name(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(OLD / "prepared" / "all", folder / "all")
    shutil.copytree(OLD / "labels" / "metres", folder / "labels")
    source = registry.make({"type": "tfds", "path": str(folder / "all")})
    assert len(source) and source[0]["image"].ndim == 3
    store = label_store.LabelStore(folder / "labels")
    assert store._reader(0).read([0])
    stale = folder / ".card.json.killed"
    stale.touch()
    shards.write_text(literal(folder) / "card.json", "{}")
    assert not stale.exists() and (folder / "card.json").read_text() == "{}"


def test_glob_takes_the_folder_literally_and_the_pattern_not(tmp_path):
    for name in ("run[1]", "run1"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a1").touch()
    folder = literal(tmp_path / "run[1]")
    assert list(folder.glob("a[0-9]")) == [folder / "a1"]
    assert [*(folder / "sub").parent.glob("s*")] == [folder / "sub"]
    for kept in (
        epath.Path(folder),
        folder / "sub",
        folder.parent,
        pickle.loads(pickle.dumps(folder)),
    ):
        assert type(kept) is type(folder)


def test_addresses_stay_and_what_nothing_can_open_is_refused(monkeypatch, tmp_path):
    assert os.fspath(literal("gs://bucket/run[1]")) == "gs://bucket/run[1]"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert literal("~/x") == literal(tmp_path / "x")
    for name in ("gs:/bucket/run", "runs/gs:/bucket"):
        with pytest.raises(ValueError, match="two slashes, gs://"):
            literal(name)
    with pytest.raises(ValueError, match="not UTF-8"):
        literal(os.fsdecode(b"a\xff"))
