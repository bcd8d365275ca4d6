"""Manifest files as people have them: lists, tables, marks; unknown fields; wrong types."""

import json
import pickle
import tracemalloc

import pytest

from depth_anything_jax.data import registry
from depth_anything_jax.data.sources import manifest, manifest_rows
from depth_anything_jax.data.sources.base import SourceError
from depth_anything_jax.data.sources.manifest import ManifestError

PAIR = "rgb/1.png", "depth/2.png", None


def load(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [(e.rgb, e.depth, e.common.fx) for e in manifest.load(path)[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rgb/1.png depth/2.png\n", PAIR),
        ("/rgb/1.png /depth/2.png 518.8579\n", ("/rgb/1.png", "/depth/2.png", 518.8579)),  # BTS
        ("1305031102.1753 rgb/1.png 1305031102.1604 depth/2.png\n", PAIR),  # TUM's associate.py
        ("# rgb depth\n\nrgb/1.png\tdepth/2.png\n", PAIR),
        ("\ufeffrgb/1.png depth/2.png\r\n", PAIR),
        ("\ufeffrgb/1.png depth/2.png\r\n".encode("utf-16-le"), PAIR),  # PowerShell
        ("rgb/1.png,depth/2.png\n", PAIR),
        ("rgb/1.png; depth/2.png\n", PAIR),
        ("a b.png\tc d.png\n", ("a b.png", "c d.png", None)),
        ('"a b.png" "c d.png" 3\n', ("a b.png", "c d.png", 3)),
        ("rgb/1.png depth/2.png 2\nrgb/2.png None 3\n", ("rgb/1.png", "depth/2.png", 2)),  # KITTI
        ("depth,fx,rgb\ndepth/2.png,,rgb/1.png\n", PAIR),
        ('rgb;depth;fx;_id\n"a;b.png";c.png;7;12\n', ("a;b.png", "c.png", 7)),
    ],
)
def test_lists_as_people_have_them(tmp_path, text, expected):
    assert load(tmp_path / "list.txt", text) == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png b.png\nmy pics/a b.png my pics/a b_d.png\n", "line 2: 'my pics.* expected 'im"),
        ("a b.png a_d.png\n", "line 1: .*names with spaces need tabs, commas or quotes"),
        ("my a.png b.png\n", "line 1: .*names with spaces"),
        ("image,label\na.png,b.png\n", "line 1: .*a table with a header such as rgb,depth"),
        ("1305031102.1753 rgb/1.png\n", "line 1: .*is a time and a file: pair the lists"),
        ("a.png b.png c.png d.png\n", "expected 'image label'"),
        ("a.png None\n", "none of its lines names a label"),
        ("# nothing\n", "no line that is not empty or a comment"),
        ("rgb,depth\na.png\n", "line 2: 1 columns, the header has 2"),
        ("rgb,depth,abs\na.png,b.png,maybe\n", "line 2: abs='maybe': must be true or false"),
        ("rgb,depth,scal\na.png,b.png,2\n", "entry 0: no field 'scal'; did you mean 'scale'"),
        (b"\xe9.png b.png\n", "list.txt: not UTF-8 text .*save it as UTF-8"),
    ],
)
def test_other_lists_are_refused_with_the_form_that_is_expected(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        load(tmp_path / "list.txt", text)


def test_tables_give_fields_their_types(tmp_path):
    (tmp_path / "m.csv").write_text(
        "rgb,depth,scale,abs,kind,domain,K,note\n"
        'a.png,a.npy,2.5,true,,indoor,"[1, 0, 2, 0, 1, 3, 0, 0, 1]",007\n'
    )
    (entry,) = manifest.load(tmp_path / "m.csv")[0]
    assert entry.label_format.scale == 2.5 and entry.label_format.absolute
    assert (entry.kind, entry.domain, entry.common.fx, entry.common.cy) == ("depth", "indoor", 1, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scal": 256}, "no field 'scal'; did you mean 'scale'"),
        ({"domian": "indoor"}, "no field 'domian'; did you mean 'domain'"),
        ({"Kind": "disparity"}, "no field 'Kind'; did you mean 'kind'"),
        ({"depth_scale": 256}, "no field 'depth_scale'; did you mean 'scale'"),
        ({"photographer": "x"}, "no field 'photographer'.*notes of your own begin with '_'"),
        ({"scale": "256"}, "scale='256': must be a number"),
        ({"scale": True}, "scale=True: must be a number"),
        ({"shift_known": "false"}, "shift_known='false': must be true or false"),
        ({"domain": 3}, "domain=3: must be text"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_fields_that_do_not_exist_are_errors(tmp_path, fields, message, suffix):
    entry = {"rgb": "a.png", "depth": "a.npy", "note": "x", "_mine": [1], "scene": None, **fields}
    text = json.dumps([entry] if suffix == ".json" else entry)
    with pytest.raises(ManifestError, match=f"entry 0: {message}"):
        load(tmp_path / f"m{suffix}", text)
    good = {k: v for k, v in entry.items() if k not in fields}
    text = "\ufeff" + json.dumps([good] if suffix == ".json" else good)
    assert load(tmp_path / f"m{suffix}", text) == [("a.png", "a.npy", None)]


def test_other_json_says_what_is_wrong(tmp_path):
    for name, text, message in (
        ("m.json", '{"rgb": "a"}\n{"rgb": "b"}\n', "JSON lines need the suffix .jsonl"),
        ("m.jsonl", '{"rgb": "a"}\n{"rgb": \n', "m.jsonl, line 2: not JSON"),
        ("m.json", "[" * 100_000, "nested too deeply"),
        ("m.json", "[]", "non-empty list"),
    ):
        with pytest.raises(ManifestError, match=message):
            load(tmp_path / name, text)


def test_selecting_by_a_singular_is_refused(tmp_path):
    rows = [{"rgb": f"{d}.png", "depth": f"{d}.npy", "dataset": d} for d in ("nyu", "tum")]
    (tmp_path / "manifest.json").write_text(json.dumps([*rows, {"rgb": "0.png", "depth": "0.npy"}]))

    def make(query):
        source = registry.make(registry.parse(f"rgbd:{tmp_path}?{query}"))
        return [(e.dataset, e.domain, e.split) for e in source.entries]

    for query in ("dataset=nyu", "split=test", "domain=indoor"):
        name, _, value = query.partition("=")
        with pytest.raises(SourceError, match=f"{name}s={value} selects .*default_{query} is for"):
            make(query)
    assert make("datasets=nyu") == [("nyu", "", "")]
    assert make("default_dataset=7&default_domain=indoor&datasets=7") == [("7", "indoor", "")]
    with pytest.raises(SourceError, match="no field 'scene'; did you mean 'scenes'"):
        make("scene=a")
    with pytest.raises(ValueError, match="'datasets' is given twice"):
        make("datasets=nyu&datasets=tum")
    spec = {"type": "rgbd", "path": str(tmp_path), "datasets": "nyu,tum"}
    assert len(registry.make(spec)) == 2
    with pytest.raises(SourceError, match="'pairs' has no field 'split'"):
        registry.make({"type": "pairs", "images": "a", "depths": "b", "split": "test"})


def test_values_in_a_source_are_of_their_fields_type():
    assert registry.parse("rgbd:m.json?labelled=false&abs=true") == {
        "type": "rgbd", "path": "m.json", "labelled": False, "abs": True,
    }  # fmt: skip
    assert registry.parse("folder:2011?name=7&slice=[1,2]") == {
        "type": "folder", "path": "2011", "name": "7", "slice": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["rgb", "depth", "sky", "valid"])
@pytest.mark.parametrize("path", ["/etc/a.png", "../a.png", "b/../../a.png", "./.././a.png", ".."])
def test_paths_that_leave_the_folder_are_refused_unless_asked_for(tmp_path, name, path):
    """A list from somewhere else could name any file, and prepare_data would pack it."""
    row = {"rgb": "a.png", "depth": "a.npy", name: path}
    (tmp_path / "manifest.json").write_text(json.dumps([row]))
    spec = {"type": "rgbd", "path": str(tmp_path)}
    with pytest.raises(ManifestError, match=rf"{name}='{path}' lies outside .*outside=True"):
        registry.make(spec)
    assert len(registry.make(spec | {"outside": True, "labelled": False})) == 1
    row[name] = "b/../c.png"
    (tmp_path / "manifest.json").write_text(json.dumps([row | {"fmt": "nyu"}]))
    assert len(registry.make(spec)) == 1


def test_absolute_paths_into_the_folder_are_inside(tmp_path, monkeypatch):
    inner, beside = tmp_path / "d", tmp_path / "d2"
    inner.mkdir()
    monkeypatch.chdir(tmp_path)
    rows = [{"rgb": f"{inner}/a.png", "depth": f"{inner}/x/../a.npy"}]
    (inner / "manifest.json").write_text(json.dumps(rows))
    for path in (str(inner), "d"):
        (entry,) = registry.make({"type": "rgbd", "path": path}).entries
        assert entry.rgb == f"{inner}/a.png"
    for path in (f"{beside}/a.png", f"{inner}/../a.png", str(inner)):
        (inner / "manifest.json").write_text(json.dumps([{"rgb": path}]))
        with pytest.raises(ManifestError, match=f"rgb='{path}' lies outside"):
            registry.make({"type": "rgbd", "path": str(inner), "labelled": False})


def test_a_leading_slash_is_the_root_of_lists_with_a_root_alone(tmp_path):
    (tmp_path / "list.txt").write_text("/a.png /d/a.npy\n")
    spec = {"type": "rgbd", "path": str(tmp_path / "list.txt")}
    for roots in ({"root": str(tmp_path)}, {"depth_root": str(tmp_path / "d")}):
        (entry,) = registry.make(spec | roots).entries
        assert entry.rgb == "a.png"
    with pytest.raises(ManifestError, match="rgb='/a.png' lies outside"):
        registry.make(spec)
    (tmp_path / "list.txt").write_text("/../a.png /d/a.npy\n")
    with pytest.raises(ManifestError, match="rgb='/../a.png' lies outside"):
        registry.make(spec | {"root": str(tmp_path)})


def test_a_manifest_of_many_entries_is_small_and_checked_once(tmp_path, monkeypatch):
    """400 bytes an entry, names included, while it is read: a million take 400 MB."""
    count = 20_000
    row = {"fmt": "nyu", "dataset": "big", "K": [9, 0, 1, 0, 9, 1, 0, 0, 1]}
    rows = [
        {"rgb": f"{i % 3}/rgb/{i:07d}.jpg", "depth": f"{i % 3}/d/{i:07d}.png", "_note": i} | row
        for i in range(count)
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(rows, indent=1))
    del rows
    checked = []
    check_fields = manifest.check_fields
    monkeypatch.setattr(manifest, "_commons", {})
    monkeypatch.setattr(manifest, "check_fields", lambda *a: (checked.append(a), check_fields(*a)))
    tracemalloc.start()
    source = registry.make({"type": "rgbd", "path": str(tmp_path)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == count and len(checked) == 3  # one for each folder
    assert peak < count * 400 + 4 * manifest_rows._PIECE
    assert len(pickle.dumps(source)) < count * 100  # what each worker receives


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_json_is_read_in_pieces_of_any_size(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(manifest_rows, "_PIECE", piece)
    path = tmp_path / "m.json"
    rows = [{"rgb": f"é{i}.png", "depth": '"],[{', "K": [[1, 2], [3.5e-7]]} for i in range(5)]
    for text in (json.dumps(rows), json.dumps(rows, indent=2), f" \n {json.dumps(rows[:1])} \n"):
        path.write_text(text)
        assert list(manifest_rows.read_rows(path)) == json.loads(text)
    for text in '[]|{}|3|[{"rgb": 1|[{},]|[{}{}]|[{}] x|[{}}|[,{}]||['.split("|"):
        path.write_text(text)
        with pytest.raises(ManifestError, match="m.json: (not JSON|a manifest is a non-empty)"):
            list(manifest_rows.read_rows(path))
