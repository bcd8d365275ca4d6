"""The lock of a folder: one holder, none left by a kill, none where there can be none."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from depth_anything_jax.utils import folder_lock


def test_a_folder_has_one_holder_at_a_time(tmp_path):
    folder = tmp_path / "new" / "run[1]"
    with folder_lock.locked(folder):
        with pytest.raises(folder_lock.FolderInUse, match=f"is in use by process {os.getpid()}"):
            with folder_lock.locked(folder):
                pass
        with folder_lock.locked(folder, active=False):
            pass
    with pytest.raises(KeyError), folder_lock.locked(folder):
        raise KeyError
    with folder_lock.locked(folder):
        pass
    assert [p.name for p in folder.iterdir()] == [".lock"]


def test_a_killed_holder_leaves_no_lock(tmp_path):
    code = (
        "import sys, time\nfrom depth_anything_jax.utils import folder_lock\n"
        "with folder_lock.locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(999)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(folder_lock.FolderInUse, match=f"process {holder.pid} on "):
        with folder_lock.locked(tmp_path):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with folder_lock.locked(tmp_path):
        pass


def test_where_there_are_no_locks_a_line_says_so(tmp_path, monkeypatch):
    def none_here(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", none_here)
    lines = []
    with folder_lock.locked(tmp_path, warn=lines.append):
        pass
    assert len(lines) == 1 and "cannot be locked (No locks available)" in lines[0]
    with folder_lock.locked("gs://bucket/run", warn=lines.append):
        pass
    assert len(lines) == 1


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        with folder_lock.locked(tmp_path / "file" / "run"):
            pass
