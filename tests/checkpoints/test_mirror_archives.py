"""A mirror as a source of weights: its newest whole archive, read without writing into it."""

import errno
import io
import os
import pathlib
import shutil
import tarfile
import tempfile

import numpy as np
import pytest

from depth_anything_jax.checkpoints import licences, mirror_archives, orbax_io, pretrained
from depth_anything_jax.checkpoints.damaged_steps import DamagedCheckpoint
from depth_anything_jax.evaluation.runner import predictors
from depth_anything_jax.training import checkpoint_backup
from depth_anything_jax.utils import nested_dicts
from tests.helpers.notebook_runs import save_model
from tools import export_torch


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A mirror of one run: steps 1 and 2, whose parameters are those of step 1 and one more."""
    root = tmp_path_factory.mktemp("run")
    params, meta = orbax_io.load_params(save_model(root / "model"))
    meta["licence_chain"] = licences.extend([], "weights", "their/source", "Apache-2.0")
    for step in (1, 2):
        checkpoints = orbax_io.Checkpoints(root / "work" / "checkpoints")
        params["encoder"]["cls_token"] = np.full_like(params["encoder"]["cls_token"], step)
        checkpoints.save(step, {"params": params}, meta, wait=True)
        checkpoints.close()
        mirror = checkpoint_backup.Mirror(
            str(root / "mirror"), str(root / "work"), tell=lambda line: None, poll=0.01
        )
        mirror.restore(lambda metadata: None)
        mirror.start({"config": {}})
        mirror.close()
    return root


@pytest.fixture
def mirror(original, tmp_path, monkeypatch):
    """A copy of it; fails where a test wrote into it or left temporary files."""
    folder, scratch = tmp_path / "drive" / "student", tmp_path / "scratch"
    shutil.copytree(original / "mirror", folder)
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return folder


def newest(mirror) -> pathlib.Path:
    return mirror_archives.archives(mirror)[0].path


def state_of(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def step_of(found) -> int:
    assert found.metadata["step"] == found.params["encoder"]["cls_token"].reshape(-1)[0]
    return found.metadata["step"]


def test_the_newest_archive_is_what_the_run_holds(mirror, original, tmp_path, caplog):
    before = state_of(mirror)
    found, run = (pretrained.load(str(p)) for p in (mirror, original / "work"))
    theirs = nested_dicts.flatten(run.params)
    for name, x in nested_dicts.flatten(found.params).items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=str(name))
    assert found.metadata == run.metadata and step_of(found) == 2
    assert state_of(mirror) == before and not os.listdir(tmp_path / "scratch")
    assert "is used" not in caplog.text
    one = pretrained.load(str(mirror_archives.archives(mirror)[1].path))
    assert step_of(one) == 1 and not os.listdir(tmp_path / "scratch")


def test_an_archive_under_another_name(mirror):
    """Drive's download calls a second copy NAME(1).tar; only the checksum is lost with the name."""
    path = newest(mirror).rename(mirror / "download (1).tar")
    assert step_of(pretrained.load(str(path))) == 2
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("photo.jpg"), io.BytesIO())
    with pytest.raises(ValueError, match=r"download \(1\)\.tar holds no checkpoint"):
        pretrained.load(str(path))
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"download \(1\)\.tar is damaged"):
        pretrained.load(str(path))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-700])


def change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "told"), [(truncate, "of its"), (change, "not its name's")], ids=["short", "changed"]
)
def test_damaged_archives_are_named_and_the_one_before_is_used(mirror, harm, told, caplog):
    one, other = (archive.path for archive in mirror_archives.archives(mirror))
    harm(one)
    assert step_of(pretrained.load(str(mirror))) == 1
    (warning,) = [r.getMessage() for r in caplog.records if one.name in r.getMessage()]
    assert told in warning and f"step 1 of {mirror} is used" in warning
    with pytest.raises(DamagedCheckpoint, match=f"{one} .*{told}"):
        pretrained.load(str(one))
    harm(other)
    with pytest.raises(DamagedCheckpoint, match="no archive of the mirror") as error:
        pretrained.load(str(mirror))
    assert one.name in str(error.value) and other.name in str(error.value)


def test_an_archive_that_its_drive_does_not_give(mirror, monkeypatch, caplog):
    whole = mirror_archives.Archive.verify

    def flaky(archive):
        if archive.step == 2:
            raise OSError(errno.EIO, "Input/output error")
        return whole(archive)

    monkeypatch.setattr(mirror_archives.Archive, "verify", flaky)
    assert step_of(pretrained.load(str(mirror))) == 1
    assert "cannot be read (OSError" in caplog.text


def test_a_checkpoint_that_was_damaged_before_it_was_mirrored(mirror, tmp_path):
    """Its checksum is right; what Orbax cannot read is told with the archive's name."""
    with tarfile.open(newest(mirror)) as tar:
        tar.extractall(tmp_path / "all", filter="data")
    (tmp_path / "all" / "checkpoints" / "2" / "state" / "manifest.ocdbt").write_bytes(b"")
    path = mirror / "own.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "all", arcname=".")
    with pytest.raises(DamagedCheckpoint, match=r"own\.tar is damaged \(checkpoint own\.tar/"):
        pretrained.load(str(path))


def test_no_room_to_unpack(mirror, monkeypatch):
    def full(path, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mirror_archives, "unpack", full)
    with pytest.raises(OSError, match=r"unpacking .*\.tar takes \d+ MB in .*scratch.*TMPDIR"):
        pretrained.load(str(mirror))


def test_folders_that_are_no_mirror_say_which_is(mirror):
    with pytest.raises(FileNotFoundError, match=f"mirrors of runs; name one: {mirror}"):
        pretrained.load(str(mirror.parent))
    for archive in mirror_archives.archives(mirror):
        archive.path.unlink()
    (mirror / "step_00000001.tar.part").touch()
    with pytest.raises(FileNotFoundError, match="has not fully arrived yet"):
        pretrained.load(str(mirror))


def test_programs_take_a_mirror(mirror, tmp_path, capsys):
    """Each has its own look at the name before it loads weights; predict and pseudo_label none."""
    before = state_of(mirror)
    (candidate,) = [predictors.make(str(mirror))]
    assert candidate.name == str(mirror)
    export_torch.main([str(mirror), str(tmp_path / "x.safetensors"), "--layout", "official"])
    assert "x.safetensors: all of demo" in capsys.readouterr().out
    assert step_of(pretrained.load(str(mirror))) == 2 and state_of(mirror) == before
