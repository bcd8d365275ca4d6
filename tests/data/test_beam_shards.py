"""Preparation by Apache Beam: the same bytes as on one machine, and either goes on with the other.

Beam's pins do not agree with those of the tests: `make nightly` gives it an environment of its own,
in which the program runs. Without it (or DEPTH_ANYTHING_BEAM, an interpreter) those are skipped.
"""

import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from depth_anything_jax.data import beam_shards, prepared_shards, registry
from tests.helpers.prepare_data import TOOL, environment, load_tool, prepare

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCAL = ["--runner", "FnApiRunner", "--direct_num_workers=2"]


@pytest.fixture
def raw(tmp_path):
    """Nine pictures, one of them broken."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (20, 30, 3), np.uint8))
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:200])
    return folder


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_a_shard_has_the_same_bytes_whoever_writes_it_and_notes_count(raw, tmp_path):
    source = registry.make(registry.parse(f"folder:{raw}"))
    plan = prepared_shards.make_plan(source, "few", f"folder:{raw}", 3)
    written, counted = [], []
    for name in ("a", "b"):
        folder = tmp_path / name
        assert prepared_shards.start(plan, folder, source) == [0, 1, 2]
        order = (2, 0, 1) if name == "b" else (0, 1, 2, 2)  # one of them written twice
        for shard in order:
            prepared_shards.write_shard(plan, folder, source, shard, lambda: counted.append(1))
        assert prepared_shards.unfinished(plan, folder, source) == []
        card = prepared_shards.finish(plan, folder, "CC0", source)
        assert card["records"] == 8 and card["skipped"] == 1
        written.append(files(folder))
    assert written[0] == written[1] and len(counted) == 9 + 12


def test_leftovers_of_killed_writers_go_at_the_next_start(raw, tmp_path):
    source = registry.make(registry.parse(f"folder:{raw}"))
    plan = prepared_shards.make_plan(source, "few", f"folder:{raw}", 3)
    prepared_shards.start(plan, tmp_path / "a", source)
    shard = prepared_shards.shard_writer(plan, tmp_path / "a").file(1).name
    for left in (f".{shard}.0123abcd", ".progress/.00001.json.0123abcd"):
        (tmp_path / "a" / left).touch()
    assert prepared_shards.start(plan, tmp_path / "a", source) == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "a").rglob("*")) == [".progress", "plan.json"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_machine_that_does_not_see_the_source_writes_no_note(raw, tmp_path, when):
    """Else its shards would be done, with every record skipped as broken."""
    source = registry.make(registry.parse(f"folder:{raw}"))
    plan = prepared_shards.make_plan(source, "few", f"folder:{raw}", 3)
    prepared_shards.start(plan, tmp_path / "a", source)
    away = tmp_path / "away"

    def unmount():
        if raw.exists():
            raw.rename(away)

    if when == "before":
        unmount()
    with pytest.raises(prepared_shards.PreparationError, match=f"sees no folder {raw}"):
        prepared_shards.write_shard(plan, tmp_path / "a", source, 0, unmount)
    away.rename(raw)
    assert prepared_shards.start(plan, tmp_path / "a", source) == [0, 1, 2]


def test_workers_get_the_source_by_a_file(raw, tmp_path):
    source = registry.make(registry.parse(f"folder:{raw}"))
    plan = prepared_shards.make_plan(source, "few", f"folder:{raw}", 3)
    prepared_shards.start(plan, tmp_path / "a", source)
    name = beam_shards.hand_over(plan, tmp_path / "a", source)
    again, there = beam_shards.handed_over(str(tmp_path / "a"), name)
    assert again == plan and [there.key(i) for i in range(9)] == [source.key(i) for i in range(9)]
    with pytest.raises(prepared_shards.PreparationError, match="does not see .*mount --out"):
        beam_shards.handed_over(str(tmp_path / "elsewhere"), name)


def test_without_beam_the_runner_is_refused_before_any_work(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    given = ["--source", f"folder:{raw}", "--out", str(tmp_path / "out"), "--name", "few"]
    with pytest.raises(ImportError, match=r"depth_anything_jax\[beam\]"):
        beam_shards.check()
    with pytest.raises(SystemExit, match=r"depth_anything_jax\[beam\]"):
        load_tool().main([*given, *LOCAL])
    with pytest.raises(SystemExit):
        load_tool().main([*given, "--direct_num_workers=2"])
    assert "unrecognized arguments: --direct_num_workers=2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def beam(*arguments, check=True):
    """Runs the program where Beam is."""
    python = os.environ.get("DEPTH_ANYTHING_BEAM") or str(ROOT / ".venv/beam/bin/python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"no {python}: `make nightly` makes it")
    command = [python, str(TOOL), *map(str, arguments)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=check, timeout=600
    )


@pytest.mark.nightly
def test_beam_writes_what_one_machine_writes(raw, tmp_path):
    given = ["--source", f"folder:{raw}", "--name", "few", "--shard_size", 2, "--licence", "CC0"]
    assert prepare(*given, "--out", tmp_path / "one", "--workers", 1).returncode == 0
    done = beam(*given, "--out", tmp_path / "many", *LOCAL)
    assert "8 records in 5 shards" in done.stdout
    one, many = (files(tmp_path / n / "few" / "1.0.0") for n in ("one", "many"))
    assert one == many and len([n for n in one if "array_record" in n]) == 5
    assert "is already complete" in beam(*given, "--out", tmp_path / "many", *LOCAL).stdout


@pytest.mark.nightly
def test_either_goes_on_where_the_other_stopped(raw, tmp_path):
    spec = f"folder:{raw}"
    source = registry.make(registry.parse(spec))
    plan = prepared_shards.make_plan(source, "few", spec, 2)
    given = ["--source", spec, "--name", "few", "--shard_size", 2, "--licence", "CC0"]
    for name, go_on in (("beam", lambda *a: beam(*a, *LOCAL)), ("one", prepare)):
        folder = tmp_path / name / "few" / "1.0.0"
        prepared_shards.start(plan, folder, source)
        for shard in (1, 3):
            prepared_shards.write_shard(plan, folder, source, shard)
        kept = {p: p.stat().st_mtime_ns for p in folder.glob("few-*")}
        assert len(kept) == 2
        done = go_on(*given, "--out", tmp_path / name)
        assert "continuing: 2 of 5 shards are there" in done.stdout, done.stderr
        assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert files(tmp_path / "beam/few/1.0.0") == files(tmp_path / "one/few/1.0.0")


@pytest.mark.nightly
def test_a_failing_worker_is_an_error_and_finished_shards_stay(raw, tmp_path):
    """A full disk: a folder stands where a shard is to be written."""
    spec = f"folder:{raw}"
    given = ["--source", spec, "--name", "few", "--shard_size", 2, "--out", tmp_path / "out"]
    blocked = tmp_path / "out/few/1.0.0/few-train.array_record-00004-of-00005"
    source = registry.make(registry.parse(spec))
    plan = prepared_shards.make_plan(source, "few", spec, 2)
    prepared_shards.start(plan, blocked.parent, source)
    blocked.mkdir()
    (blocked / "x").touch()
    failed = beam(*given, *LOCAL, check=False)
    assert failed.returncode != 0 and "00004-of-00005" in failed.stderr
    (blocked / "x").unlink()
    blocked.rmdir()
    assert "8 records in 5 shards" in beam(*given, *LOCAL).stdout
