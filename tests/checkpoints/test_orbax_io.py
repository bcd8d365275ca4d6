"""Checkpoints of runs: saved, restored, read for use."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.parallel import sharding

META = {"model": {"variant": "demo", "max_depth": None}, "licence": ["Apache-2.0"]}


def state(mesh, fill=1.0):
    tree = {"params": {"encoder": {"blocks": {"kernel": jnp.full((2, 8, 8), fill)}}}, "step": 3}
    tree["step"] = jnp.int32(3)
    return jax.device_put(tree, sharding.tree_shardings(tree, mesh))


def abstract(tree, mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree,
        sharding.tree_shardings(tree, mesh),
    )


def test_restores_onto_another_mesh_and_keeps_what_the_policy_says(tmp_path):
    four = sharding.make_mesh(2, 4)
    checkpoints = orbax_io.Checkpoints(tmp_path, keep_last=2, keep_every=10)
    for step in (5, 10, 15, 20):
        checkpoints.save(step, state(four, float(step)), META)
    checkpoints.close()
    again = orbax_io.Checkpoints(tmp_path)
    assert again.latest == 20
    assert again.meta() == META
    one = sharding.make_mesh(8, 1)
    restored = again.restore(abstract(state(four), one))
    kernel = restored["params"]["encoder"]["blocks"]["kernel"]
    np.testing.assert_array_equal(kernel, 20.0)
    assert kernel.sharding.is_fully_replicated
    again.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [10, 15, 20]


def test_what_a_kill_leaves_half_written_or_half_deleted_is_passed_over_and_goes(tmp_path):
    mesh = sharding.make_mesh()
    checkpoints = orbax_io.Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(mesh, float(step)), META)
    checkpoints.close()
    half = tmp_path / "3.orbax-checkpoint-tmp"  # never saved again: the next run saves at 4
    shutil.copytree(tmp_path / "2", half)
    shutil.rmtree(half / "state" / "d")
    for file in ("_CHECKPOINT_METADATA", "state/_METADATA"):
        (tmp_path / "1" / file).unlink()
    assert orbax_io.find(tmp_path).name == "2"
    # Somebody else looks in: a run may be writing there at this moment.
    reader = orbax_io.Checkpoints(tmp_path)
    assert reader.latest == 2 and reader.meta(2)["model"] == META["model"]
    reader.close()
    orbax_io.load_params(tmp_path)
    assert half.is_dir()
    again = orbax_io.Checkpoints(tmp_path, own=True)
    assert again.latest == 2
    restored = again.restore(abstract(state(mesh), mesh))
    np.testing.assert_array_equal(restored["params"]["encoder"]["blocks"]["kernel"], 2.0)
    again.save(4, state(mesh, 4.0), META)
    again.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


def test_params_alone_load_without_the_run(tmp_path):
    mesh = sharding.make_mesh(4, 2)
    checkpoints = orbax_io.Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, state(mesh, 2.0), META, wait=True)
    checkpoints.close()
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "7"):
        params, meta = orbax_io.load_params(path)
        assert isinstance(params["encoder"]["blocks"]["kernel"], np.ndarray)
        np.testing.assert_array_equal(params["encoder"]["blocks"]["kernel"], 2.0)
        assert meta["model"] == META["model"] and meta["step"] == 7


def test_relative_folders_and_home(tmp_path, monkeypatch):
    """Configs name relative work folders, and Orbax refuses those."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoints = orbax_io.Checkpoints("runs/one/checkpoints")
    checkpoints.save(3, state(sharding.make_mesh()), META, wait=True)
    checkpoints.close()
    for path in ("runs/one", "~/runs/one", "runs/one/checkpoints/3"):
        assert orbax_io.load_params(path)[1]["step"] == 3
    assert orbax_io.find("runs/two") is None
    assert str(orbax_io._absolute("gs://bucket/run")) == "gs://bucket/run"


@pytest.mark.parametrize("name", ["run[1]", "[!a]", "a*b?", "a b#%20", "é", "a:b'\"{c,d}"])
def test_folders_of_odd_names_hold_checkpoints(name, tmp_path):
    orbax_io.save_params(tmp_path / name, {"encoder": {"x": np.arange(3)}}, META)
    params, meta = orbax_io.load_params(tmp_path / name)
    np.testing.assert_array_equal(params["encoder"]["x"], [0, 1, 2])
    assert meta["step"] == 0


def test_folders_that_cannot_hold_checkpoints_are_refused(tmp_path):
    for use in (orbax_io.Checkpoints, orbax_io.load_params, orbax_io.checked_folder):
        with pytest.raises(ValueError, match="backslash"):
            use(tmp_path / "a\\b")
    assert not list(tmp_path.iterdir())


def largest(step):
    return max((step / "state" / "d").iterdir(), key=lambda p: p.stat().st_size)


DAMAGE = {
    "an empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
    "no metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "no description of the arrays": lambda step: (step / "state" / "_METADATA").unlink(),
    "truncated metadata": lambda step: os.truncate(step / "_CHECKPOINT_METADATA", 20),
    "truncated arrays": lambda step: os.truncate(largest(step), 10),
    "an array file lost": lambda step: largest(step).unlink(),
    "the index lost": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
}


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_step_is_set_aside_and_the_last_whole_one_restored(harm, tmp_path, caplog):
    mesh = sharding.make_mesh()
    checkpoints = orbax_io.Checkpoints(tmp_path)
    for step in (3, 6):
        checkpoints.save(step, state(mesh, float(step)), META | {"saved": step})
    checkpoints.close()
    DAMAGE[harm](tmp_path / "6")
    checkpoints = orbax_io.Checkpoints(tmp_path, own=True)
    seen = []
    restored = checkpoints.restore_newest(abstract(state(mesh), mesh), seen.append)
    assert restored.step == 3 and restored.meta["saved"] == 3 and seen[-1] == restored.meta
    np.testing.assert_array_equal(restored.state["params"]["encoder"]["blocks"]["kernel"], 3.0)
    assert "6 is not whole (" in caplog.text and "the run goes on from step 3" in caplog.text
    checkpoints.save(6, restored.state, META, wait=True)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6", "6.damaged"]
    DAMAGE[harm](tmp_path / "6")
    DAMAGE[harm](tmp_path / "3")
    with pytest.raises(orbax_io.DamagedCheckpoint, match=r"(?s)no .* whole:.*/6 is .*/3 is .*copy"):
        orbax_io.Checkpoints(tmp_path).restore_newest(abstract(state(mesh), mesh), seen.append)
    with pytest.raises(orbax_io.DamagedCheckpoint, match="6 is not whole"):
        orbax_io.load_params(tmp_path / "6")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6", "6.damaged"]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
        (OSError(errno.EMFILE, "Too many open files"), OSError),
        (ValueError("UNKNOWN: Error reading local file [os_error_code='5']"), OSError),
        (ConnectionResetError("reset"), ConnectionResetError),
        (TimeoutError("late"), TimeoutError),
        (ValueError("DATA_LOSS: Error reading [os_error_code='40']"), None),
        (OSError(errno.ENOENT, "No such file"), None),
    ],
)
def test_a_step_that_cannot_be_read_at_the_moment_is_left_as_it_is(
    reason, expected, tmp_path, monkeypatch
):
    mesh = sharding.make_mesh()
    checkpoints = orbax_io.Checkpoints(tmp_path)
    for step in (3, 6):
        checkpoints.save(step, {"x": np.zeros(3)}, META, wait=True)
    load = checkpoints._orbax.load_checkpointables

    def fail(step, *args):
        if step == 6:
            raise reason
        return load(step, *args)

    monkeypatch.setattr(checkpoints._orbax, "load_checkpointables", fail)
    like = abstract({"x": np.zeros(3)}, mesh)
    if expected:
        with pytest.raises(expected) as caught:
            checkpoints.restore_newest(like, lambda meta: None)
        if not isinstance(reason, ConnectionError | TimeoutError):
            assert "may be whole" in str(caught.value) and str(tmp_path / "6") in str(caught.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6"]
    else:
        assert checkpoints.restore_newest(like, lambda meta: None).step == 3


def test_an_index_that_cannot_be_read_at_the_moment_is_no_damage(tmp_path, monkeypatch):
    orbax_io.save_params(tmp_path / "run", {"x": np.zeros(3)}, {})
    (tmp_path / "run" / "0" / "state" / "manifest.ocdbt").unlink()

    def deny(self):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(self))

    with pytest.raises(orbax_io.DamagedCheckpoint, match="cannot be opened"):
        orbax_io.load_params(tmp_path / "run")
    monkeypatch.setattr(type(orbax_io.find(tmp_path / "run")), "read_bytes", deny)
    with pytest.raises(PermissionError, match="manifest"):
        orbax_io.load_params(tmp_path / "run")


def test_a_reader_takes_the_step_before_one_without_metadata_and_warns(tmp_path, caplog):
    checkpoints = orbax_io.Checkpoints(tmp_path)
    for step in (3, 6):
        checkpoints.save(step, state(sharding.make_mesh()), META)
    checkpoints.close()
    assert orbax_io.load_params(tmp_path)[1]["step"] == 6 and not caplog.text
    DAMAGE["no metadata"](tmp_path / "6")
    assert orbax_io.load_params(tmp_path)[1]["step"] == 3
    assert "6 is not whole; " in caplog.text and "/3 is read" in caplog.text


def test_another_runs_step_is_no_damage(tmp_path):
    checkpoints = orbax_io.Checkpoints(tmp_path)
    assert checkpoints.restore_newest({}, lambda meta: None) is None
    checkpoints.save(3, state(sharding.make_mesh()), META, wait=True)

    def refuse(meta):
        raise ValueError("another run")

    with pytest.raises(ValueError, match="another run"):
        checkpoints.restore_newest({}, refuse)
    with pytest.raises(ValueError, match="in the checkpoint only: step"):
        checkpoints.restore_newest({}, lambda meta: None)
    checkpoints.close()
    assert [p.name for p in tmp_path.iterdir()] == ["3"]


def test_every_misfit_is_listed(tmp_path):
    mesh = sharding.make_mesh()
    checkpoints = orbax_io.Checkpoints(tmp_path)
    checkpoints.save(1, state(mesh), META, wait=True)
    wanted = {
        "params": {"encoder": {"blocks": {"kernel": jnp.zeros((2, 8, 9))}, "new": jnp.ones(1)}}
    }
    with pytest.raises(ValueError) as error:
        checkpoints.restore(abstract(wanted, mesh))
    text = str(error.value)
    assert "(2, 8, 8) in the checkpoint, (2, 8, 9)" in text
    assert "missing from the checkpoint: params/encoder/new" in text
    assert "in the checkpoint only: step" in text
    checkpoints.close()


def test_nothing_there_and_nothing_overwritten(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Orbax checkpoint"):
        orbax_io.load_params(tmp_path / "nowhere")
    orbax_io.save_params(tmp_path / "a", {"encoder": {"x": np.ones(3)}}, META)
    params, meta = orbax_io.load_params(tmp_path / "a")
    np.testing.assert_array_equal(params["encoder"]["x"], 1)
    assert meta["model"] == META["model"]
    with pytest.raises(FileExistsError, match="not empty"):
        orbax_io.save_params(tmp_path / "a", {"encoder": {"x": np.ones(3)}}, META)


@pytest.mark.parametrize(
    ("every", "minutes", "saves"),
    [(0, 0, []), (4, 0, [4, 8]), (0, 5, [5, 10]), (4, 5, [4, 8]), (7, 5, [5, 7])],
)
def test_when_to_save_by_count_and_by_the_clock(every, minutes, saves):
    """A step takes 66 seconds; what is saved by count starts the minutes anew."""
    now = [0.0]
    schedule = orbax_io.Schedule(every, minutes, clock=lambda: now[0])
    found = []
    for step in range(1, 11):
        now[0] += 66
        if schedule.due(step):
            found.append(step)
            schedule.saved()
    assert found == saves


def test_several_processes_ask_the_first_ones_clock_at_every_tenth_step(monkeypatch):
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        orbax_io.multihost_utils,
        "broadcast_one_to_all",
        lambda mine: said.append(bool(mine)) or np.asarray(True),
    )
    schedule = orbax_io.Schedule(25, 1e9)
    assert [step for step in range(1, 31) if schedule.due(step)] == [10, 20, 25, 30]
    assert said == [False] * 3  # its own clock is far from it


def test_a_save_that_fails_says_what_is_whole_and_leaves_it(tmp_path, caplog):
    """A file where Orbax wants its folder fails as a full disk does: in Orbax's thread."""
    mesh = sharding.make_mesh()
    checkpoints = orbax_io.Checkpoints(tmp_path / "run", own=True)
    checkpoints.save(1, state(mesh), META, wait=True)
    (tmp_path / "run").rename(tmp_path / "away")
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match="could not be written into .*run: .*no step is whole there"):
        checkpoints.save(2, state(mesh), META, wait=True)
    (tmp_path / "run").unlink()
    (tmp_path / "away").rename(tmp_path / "run")
    assert orbax_io.load_params(tmp_path / "run")[1]["step"] == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kept", [False, True])
def test_the_running_average_is_loaded_where_there_is_one(tmp_path, kept):
    average = {"w": jnp.full(3, 2.0)} if kept else None
    whole = {"params": {"w": jnp.ones(3)}, "ema": average, "step": jnp.asarray(7)}
    checkpoints = orbax_io.Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, whole, META, wait=True)
    checkpoints.close()
    params, meta = orbax_io.load_params(tmp_path)
    np.testing.assert_array_equal(params["w"], 2.0 if kept else 1.0)
    assert meta["weights"] == ("ema" if kept else "params")
    params, meta = orbax_io.load_params(tmp_path, ema=False)
    np.testing.assert_array_equal(params["w"], 1.0)
    assert meta["weights"] == "params"
