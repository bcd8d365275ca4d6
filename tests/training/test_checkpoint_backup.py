"""A mirror that loses files, is full, drops or is another run's; a run that goes on from one."""

import errno
import hashlib
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.training import checkpoint_backup, log_writers

METADATA = {"config": {"seed": 0}}


class Drive:
    """A mirror, the work folder beside it and what was told."""

    def __init__(self, root):
        self.folder, self.workdir = root / "drive" / "run", root / "work"
        self.folder.parent.mkdir()
        self.said: list[str] = []

    def open(self):
        return checkpoint_backup.Mirror(
            str(self.folder), str(self.workdir), tell=self.said.append, poll=0.01
        )

    def save(self, *steps):
        checkpoints = orbax_io.Checkpoints(self.workdir / "checkpoints")
        for step in steps:
            checkpoints.save(step, {"x": np.full(9, step)}, {}, wait=True)
        checkpoints.close()
        (self.workdir / "metrics.jsonl").write_text(f'{{"step": {steps[-1]}}}\n')

    def mirror(self, *steps):
        """Saves and waits until all of them have arrived."""
        for step in steps:
            self.save(step)
            one = self.open()
            one.restore(lambda metadata: None)
            one.start(METADATA)
            one.close()

    def lose_the_machine(self):
        shutil.rmtree(self.workdir)
        self.said.clear()

    def restore(self, check=lambda metadata: None):
        return self.open().restore(check)

    @property
    def steps(self):
        return [a.step for a in checkpoint_backup.archives(self.folder)]

    def newest(self):
        return checkpoint_backup.archives(self.folder)[0].path


@pytest.fixture
def drive(tmp_path):
    return Drive(tmp_path)


def files_below(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_until(true):
    while not true():
        time.sleep(0.005)


def test_what_comes_back_is_what_was_saved_and_two_files_stay(drive):
    drive.mirror(5, 10, 15)
    assert drive.steps == [15, 10] and len([*drive.folder.iterdir()]) == 2
    data = drive.newest().read_bytes()
    assert drive.newest().name == (
        f"step_00000015.{len(data)}.{hashlib.sha256(data).hexdigest()}.tar"
    )
    saved = files_below(drive.workdir / "checkpoints" / "15")
    drive.lose_the_machine()
    seen = []
    assert drive.restore(seen.append) == 15
    assert seen == [METADATA]
    assert files_below(drive.workdir / "checkpoints" / "15") == saved
    assert sorted(p.name for p in drive.workdir.iterdir()) == ["checkpoints", "metrics.jsonl"]
    assert json.loads((drive.workdir / "metrics.jsonl").read_text()) == {"step": 15}
    np.testing.assert_array_equal(
        orbax_io.Checkpoints(drive.workdir / "checkpoints").restore({"x": np.zeros(9, int)})["x"],
        15,
    )


def test_the_run_of_weights_and_biases_is_known_on_the_next_machine(drive):
    drive.save(5)
    (drive.workdir / log_writers.WANDB_RUN).write_text("abcd1234\n")
    drive.mirror(10)
    drive.lose_the_machine()
    assert drive.restore() == 10
    assert (drive.workdir / log_writers.WANDB_RUN).read_text() == "abcd1234\n"


def test_an_empty_mirror_brings_nothing_back(drive):
    assert drive.restore() is None
    assert drive.folder.is_dir() and not drive.workdir.exists() and drive.said == []


def lost(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def changed(path):
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "told"),
    [(lost, None), (cut, "bytes; looking for an older one"), (changed, "not its name's; looking")],
)
def test_the_newest_intact_one_comes_back_and_a_broken_one_is_not_kept_for_it(drive, harm, told):
    drive.mirror(5, 10)
    name = drive.newest().name
    harm(drive.newest())
    drive.lose_the_machine()
    one = drive.open()
    assert one.restore(lambda metadata: None) == 5
    broken = [line for line in drive.said if name in line]
    assert len(broken) == (told is not None) and all(told in line for line in broken)
    drive.save(12)
    one.start(METADATA)
    one.close()
    assert drive.steps == [12, 5]


def test_a_file_that_breaks_during_the_run_is_not_one_of_the_two(drive):
    """Not even where the work folder was newer, so that nobody read it at the start."""
    drive.mirror(5, 10)
    changed(drive.newest())
    drive.mirror(15)
    assert drive.steps == [15, 5]


def test_a_file_that_cannot_be_read_for_a_moment_is_passed_over_and_not_deleted(drive, monkeypatch):
    drive.mirror(5, 10)
    drive.lose_the_machine()
    one, digest = drive.open(), hashlib.file_digest

    def flaky(file, name):
        if "step_00000010" in file.name:
            raise OSError(errno.EIO, "Input/output error")
        return digest(file, name)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", flaky)
        assert one.restore(lambda metadata: None) == 5
    assert "step_00000010" in drive.said[0] and "Input/output error" in drive.said[0]
    drive.save(12)
    one.start(METADATA)
    one.close()
    assert drive.steps == [12, 10]


def test_another_runs_mirror_is_refused_before_anything_is_touched(drive):
    drive.mirror(5)
    drive.lose_the_machine()

    def refuse(about):
        raise ValueError(f"seed {about['config']['seed']}")

    with pytest.raises(ValueError, match="seed 0"):
        drive.restore(refuse)
    assert not drive.workdir.exists()
    drive.save(20)  # and also where nothing would be restored
    with pytest.raises(ValueError, match="seed 0"):
        drive.restore(refuse)


def test_a_newer_work_folder_is_left_alone_and_mirrored(drive):
    drive.mirror(5)
    drive.save(10)
    before = files_below(drive.workdir)
    one = drive.open()
    assert one.restore(lambda metadata: None) is None
    assert files_below(drive.workdir) == before
    one.start(METADATA)
    one.close()
    assert drive.steps == [10, 5]


def test_an_older_work_folder_goes_on_from_the_mirror(drive):
    drive.mirror(5)
    old = drive.workdir.with_name("old")
    shutil.copytree(drive.workdir, old)
    drive.mirror(10)
    drive.lose_the_machine()
    old.rename(drive.workdir)
    (drive.workdir / "restoring-1").mkdir()  # a start that was killed
    assert drive.restore() == 10
    assert orbax_io.find(drive.workdir).name == "10"
    assert not (drive.workdir / "restoring-1").exists()


def test_a_damaged_step_of_the_work_folder_comes_back_from_the_mirror(drive):
    drive.mirror(5, 10)
    step = drive.workdir / "checkpoints" / "10"
    whole = files_below(step)
    (step / "_CHECKPOINT_METADATA").unlink()
    assert drive.restore() == 10
    assert files_below(step) == whole and step.with_name("10.damaged").is_dir()


@pytest.mark.parametrize("copy", ["intact", "changed", "of the damage"])
def test_damaged_arrays_come_back_from_the_mirror_before_an_older_step_is_taken(
    drive, copy, caplog
):
    drive.save(5)
    folder = drive.workdir / "checkpoints"
    index = folder / "10" / "state" / "manifest.ocdbt"
    if copy == "of the damage":
        drive.save(10)
        os.truncate(index, 10)
    drive.mirror(10)
    if copy == "changed":
        changed(drive.newest())
    whole = files_below(folder / "10")
    os.truncate(index, 10)
    curves = '{"step": 10}\n{"step": 11}\n'
    (drive.workdir / "metrics.jsonl").write_text(curves)
    one = drive.open()
    assert one.restore(lambda metadata: None) is None  # nothing newer, and its name is there
    checkpoints = orbax_io.Checkpoints(folder, own=True)
    seen = []
    restored = checkpoints.restore_newest({"x": np.zeros(9, int)}, seen.append, one.fetch)
    assert restored.step == (10 if copy == "intact" else 5) and seen[-1] == restored.meta
    np.testing.assert_array_equal(restored.state["x"], restored.step)
    assert (folder / "10.damaged").is_dir()
    if copy == "intact":
        assert files_below(folder / "10") == whole
        assert "step 10 was damaged and is restored from" in drive.said[-1]
    else:
        told = "has the SHA-256" if copy == "changed" else "is restored from"
        assert told in drive.said[-1] and "goes on from step 5" in caplog.text
    checkpoints.close()
    assert (drive.workdir / "metrics.jsonl").read_text() == curves
    nothing = checkpoint_backup.Mirror("", str(drive.workdir))
    assert not nothing.fetch(10)


def test_a_full_drive_is_told_and_tried_again_at_the_next_checkpoint(drive, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        one = drive.open()
        one.start(METADATA)
        drive.save(5)
        wait_until(lambda: drive.said)
        time.sleep(0.1)  # ten looks: told once
        (line,) = drive.said
        assert "step 5 is not in" in line and "No space left on device" in line
        assert line.endswith("the next checkpoint is tried again")
        assert [*drive.folder.iterdir()] == []  # no half-written file
    drive.save(10)
    wait_until(lambda: drive.steps == [10])
    one.close()
    monkeypatch.setattr(os, "fsync", full)
    drive.mirror(15)
    assert "step 15 is not in" in drive.said[-1]
    assert drive.said[-1].endswith("it holds step 10")
    assert drive.steps == [10]


def test_a_dropped_drive_is_not_made_anew_on_the_machines_disk(drive):
    one = drive.open()
    one.start(METADATA)
    shutil.rmtree(drive.folder.parent)
    drive.save(5)
    one.close()
    assert "FileNotFoundError" in drive.said[-1]
    assert not drive.folder.parent.exists()
    with pytest.raises(FileNotFoundError, match="mount the Drive first"):
        drive.open()


def test_a_step_that_is_deleted_while_a_slow_drive_takes_it_arrives_whole(drive, monkeypatch):
    saved = {}
    member = checkpoint_backup._member

    def delete_first(name, size):
        if name == "run.json":
            saved.update(files_below(drive.workdir / "checkpoints" / "5"))
            shutil.rmtree(drive.workdir / "checkpoints" / "5")
        return member(name, size)

    monkeypatch.setattr(checkpoint_backup, "_member", delete_first)
    drive.mirror(5)
    drive.lose_the_machine()
    assert drive.restore() == 5 and saved
    assert files_below(drive.workdir / "checkpoints" / "5") == saved


def test_the_run_does_not_wait_for_a_slow_drive(drive, monkeypatch):
    """While a file is under way newer checkpoints are saved; then the newest follows."""
    go, fsync = threading.Event(), os.fsync

    def slow(number):
        if threading.current_thread().name == "mirror":
            assert go.wait(30)
        fsync(number)

    monkeypatch.setattr(os, "fsync", slow)
    one = drive.open()
    one.start(METADATA)
    drive.save(5)
    wait_until(lambda: drive.folder.joinpath("step_00000005.tar.part").exists())
    drive.save(10, 15)
    assert drive.steps == [] and orbax_io.find(drive.workdir).name == "15"
    go.set()
    one.close()
    assert drive.steps == [15, 5]


@pytest.mark.parametrize(
    ("folder", "workdir", "error", "message"),
    [
        ("gs://b/m", "work", ValueError, "mirror=gs://b/m: a mirror is a mounted folder"),
        ("drive", "gs://b/w", ValueError, "workdir=gs://b/w: a mirror is a mounted folder"),
        ("nowhere/run", "work", FileNotFoundError, "mount the Drive first"),
        ("file", "work", ValueError, "this is a file"),
    ],
)
def test_folders_that_cannot_be_a_mirror(folder, workdir, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        checkpoint_backup.Mirror(folder, workdir)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_other_processes_and_runs_without_a_mirror_touch_nothing(drive):
    for one in (
        checkpoint_backup.Mirror("", str(drive.workdir)),
        checkpoint_backup.Mirror(str(drive.folder), str(drive.workdir), active=False),
    ):
        assert one.restore(lambda metadata: None) is None
        one.start(METADATA)
        one.close()
    assert not drive.folder.exists() and not drive.workdir.exists()
