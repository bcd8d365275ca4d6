"""Teacher, pseudo labels and student killed at random moments, started again: the same last bit.

A round starts a program, kills it at moments that its seed draws and starts the same command again
until it finishes. What it leaves is then compared with a run that nobody interrupted: parameters,
optimiser, running average and step; every line of metrics.jsonl, time and rates excepted; every
byte of the label store, what the card tells of the last run's speed excepted.

A moment is a share of the time that the start-up takes, or a number of steps (shards) that are seen
to be done and a share of the next one. When that is depends on the machine; what is claimed does
not. SIGKILL costs the steps since the last complete checkpoint. That is `checkpoint.every`, and as
many again while that checkpoint is being written in the background: it ends before the next begins.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.training import logger
from depth_anything_jax.utils import param_paths

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = ("teacher", "pseudo_label", "student")
STEPS, EVERY = 10, 2
IMAGES, SHARD = 96, 4
UNITS = {"teacher": STEPS, "pseudo_label": IMAGES // SHARD, "student": STEPS}
UNLABELLED = f"scenes:B?count={IMAGES}&size=28&labelled=False"
FIELDS = {
    "input_size": 28, "batch_size": 2, "total_steps": STEPS, "optim.warmup": 2,
    "data.labelled": ("scenes:A?count=6&size=28",), "checkpoint.every": EVERY,
    "log.every": 1, "log.images": 0, "log.tensorboard": False,
}  # fmt: skip
STUDENT = {
    "batch_size": 6, "ema_decay": 0.5, "loss.feat_margin": 1.0, "perturb.cutmix.p": 0.8,
    "data.unlabelled": (UNLABELLED,),
}  # fmt: skip
MOST_WORK = 600  # seconds of a processor that one start may take: it takes about 30
# Against a program that waits for ever: no busy machine takes as long.
pytestmark = pytest.mark.timeout(3600)
OF_ONE_RUN = ("images_per_second", "programs")  # the card's words on the run that finished it


@dataclasses.dataclass
class Start:
    """One start of a program, until it ended or was killed.

    Attributes:
      code: its exit status.
      seen: steps (or shards) that were done when it was last looked at alive.
      text: what it printed.
      sent: the signal, or None where the program was faster.
      after: seconds from its start to the signal.
    """

    code: int
    seen: int
    text: str
    sent: signal.Signals | None
    after: float


class Laboratory:
    """Folders, straight runs and how long things take."""

    def __init__(self, folder):
        self.folder = folder
        self.start_up: dict[str, float] = {}  # seconds to the first step or shard
        self.unit: dict[str, float] = {}  # seconds of one
        self.environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT),
            # A restart is quick, and compiled alike.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip

    def straight(self, program):
        """The folder of a run that nobody interrupts; made when it is first asked for."""
        out = self.folder / program
        if not out.exists():
            self.folder.mkdir(exist_ok=True)
            done = self.start(program, out)
            assert done.code == 0, done.text
        return out

    def command(self, program, out, workers):
        if program == "pseudo_label":
            flags = [f"--checkpoint={self.straight('teacher')}", f"--data={UNLABELLED}",
                     f"--out={out}", "--size=28", f"--shard_size={SHARD}"]  # fmt: skip
        else:
            fields = dict(FIELDS)
            if program == "student":
                fields |= {**STUDENT, "data.labels": (str(self.straight("pseudo_label")),)}
            flags = [f"--config=configs/{program}.py:demo", f"--workdir={out}"]
            fields["data.workers"] = workers
            flags += [f"--config.{name}={value}" for name, value in fields.items()]
        module = "pseudo_label" if program == "pseudo_label" else "train"
        return [sys.executable, "-m", f"depth_anything_jax.{module}", *flags]

    def start(self, program, out, moment=None, send=None, workers=0):
        """Runs a program; kills it with `send` at `moment`: (units done, share of what follows)."""
        command = self.command(program, out, workers)
        log = self.folder / "log.txt"
        with open(log, "w") as file:
            run = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=file, stderr=file
            )
        begun, before = time.monotonic(), _there(program, out)
        first = kill_at = sent = None
        seen, after = before, 0.0
        if moment and not moment[0]:
            kill_at = begun + moment[1] * self.start_up[program]
        while run.poll() is None:
            now = time.monotonic()
            work = processor_seconds(run.pid)
            assert work < MOST_WORK, f"{program} neither ends nor dies:\n{log.read_text()}"
            seen = max(seen, _done(program, out, log))
            if first is None and seen > before:
                first = now
                if not send:
                    self.start_up[program] = first - begun
            if moment and moment[0] and kill_at is None and seen >= max(moment[0], before + 1):
                kill_at = now + moment[1] * self.unit[program]
            if moment and not moment[0] and first:  # quicker than the last time
                kill_at = now
            if kill_at and now >= kill_at and not sent:
                run.send_signal(send)
                sent, after = send, now - begun
            time.sleep(0.01)
        if not send and first is not None:
            self.unit[program] = (time.monotonic() - first) / max(1, UNITS[program] - before)
        return Start(run.returncode, seen, log.read_text(), sent, after)


def processor_seconds(pid):
    """What a process and those that it waited for have computed, 0 where the system hides it.

    Unlike time on the clock it does not grow while other programs have the processors.
    """
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _there(program, out):
    """The step that is saved, or shards that are there."""
    if program == "pseudo_label":
        return len(list(out.glob("labels-*.array_record")))
    found = orbax_io.find(out)
    return int(found.name) if found else 0


def _done(program, out, log):
    """The last step whose line is printed, or shards that are there."""
    if program == "pseudo_label":
        return _there(program, out)
    return max([0, *(int(n) for n in re.findall(r"^step +(\d+)/", log.read_text(), re.MULTILINE))])


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


def state_of(workdir):
    """Every array of the newest checkpoint by its path, and the metadata."""
    step = orbax_io.find(workdir)
    described = ocp.checkpointables_metadata(step)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), described.metadata["state"]
    )
    state = ocp.load_checkpointables(step, {"state": abstract})["state"]
    arrays = {name: np.asarray(x) for name, x in param_paths.leaves_by_path(state).items()}
    return arrays, described.custom_metadata


def rows_of(workdir):
    """The lines of metrics.jsonl without what a clock says."""
    return [
        {k: v for k, v in row.items() if k != "time" and not k.startswith("rate/")}
        for row in logger.read_metrics(workdir)
    ]


def files_of(store):
    """Every file of a label store as bytes, but for the card's words on the run that wrote it."""
    files = {p.name: p.read_bytes() for p in store.iterdir()}
    card = json.loads(files["card.json"])
    files["card.json"] = {k: v for k, v in card.items() if k not in OF_ONE_RUN}
    return files


def assert_same_end(program, ours, straight):
    if program == "pseudo_label":
        assert files_of(ours) == files_of(straight)
        return
    assert [r["step"] for r in rows_of(straight)] == [*range(1, STEPS + 1)]
    assert rows_of(ours) == rows_of(straight)
    (one, meta), (other, expected) = state_of(ours), state_of(straight)
    assert one.keys() == other.keys()
    parts = {"params", "opt_state", "step"} | ({"ema"} if program == "student" else set())
    assert {name.split("/")[0] for name in one} == parts
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(
            one[name].reshape(-1).view(np.uint8), other[name].reshape(-1).view(np.uint8), name
        )
    for described in (meta, expected):
        del described["config"]["data"]["workers"]  # may change when a run goes on
        assert 0 < described["goodput"]["in_steps"] < described.pop("goodput")["in_processes"]
    assert meta == expected and meta["next_step"] == one["step"] == STEPS
    assert {p.name for p in ours.iterdir()} <= {
        ".lock", "checkpoints", "metrics.jsonl", "metrics.superseded.jsonl"
    }  # fmt: skip
    assert all(p.name.isdigit() for p in (ours / "checkpoints").iterdir())  # nothing half-written


def lost_in(program, out, start):
    """Checks how a killed start ended; returns what it lost, in words."""
    if start.sent is None:
        assert start.code == 0, start.text
        return "it was faster"
    if program == "pseudo_label":  # SIGTERM ends it like SIGKILL: there is nothing to finish
        assert start.code in (-start.sent, 0), start.text
        return f"{start.code}, {_there(program, out)} of {UNITS[program]} shards are there"
    saved = _there(program, out)
    written = rows_of(out) if (out / "metrics.jsonl").exists() else []
    finished = max([saved, start.seen, *(row["step"] for row in written)])
    if start.sent == signal.SIGKILL:
        assert start.code in (-signal.SIGKILL, 0), start.text
        assert finished - saved <= 2 * EVERY, start.text
    elif start.code:
        # Before the program listens there is nothing to lose, after its last step neither.
        assert start.code == -signal.SIGTERM, start.text
        assert start.text == "" or saved == STEPS, start.text
    elif "SIGTERM before the first step: nothing to save" in start.text:
        assert not re.search("^step ", start.text, re.MULTILINE), start.text
    else:
        assert f"SIGTERM: saved after step {saved};" in start.text or saved == STEPS, start.text
        assert finished == saved, start.text
    return f"{start.code}, {finished - saved} steps to do again"


def live(laboratory, seed, program, kills, out, *, signals, moments, workers):
    """One round; prints its line and returns how many of its signals hit a living program."""
    told, hits = [], 0
    shards: dict[str, int] = {}
    straight = laboratory.straight(program)
    for k in range(kills):
        start = laboratory.start(
            program, out, moment=moments[k], send=signals[k], workers=workers[k]
        )
        at = f"{signals[k].name} after {start.after:.1f} s, {start.seen} of {UNITS[program]} done"
        told.append(f"{at} → {lost_in(program, out, start)}")
        hits += start.sent is not None
        for file in out.glob("labels-*.array_record"):
            assert shards.setdefault(file.name, file.stat().st_ino) == file.stat().st_ino, file
    last = laboratory.start(program, out, workers=workers[kills])
    assert last.code == 0, last.text
    for name, inode in shards.items():  # what was there is not made again
        assert (out / name).stat().st_ino == inode, name
    assert_same_end(program, out, straight)
    print(f"\nround {seed:2d} {program:12s} {'; '.join(told)}; ends bit-equal", flush=True)
    return hits


def drawn(seed, program, kills, workers):
    rng = np.random.default_rng(seed)
    moments = [
        (0 if rng.random() < 0.5 else int(rng.integers(1, UNITS[program])), rng.random())
        for _ in range(kills)
    ]
    signals = [signal.Signals(int(s)) for s in rng.permutation([9, 15, 9, 15])[:kills]]
    return {
        "kills": kills, "moments": moments, "signals": signals,
        "workers": [int(w) for w in rng.choice(workers, kills + 1)],
    }  # fmt: skip


# Seeds that kill half-way (SIGKILL, SIGKILL, SIGTERM): start-ups are the nightly rounds' business.
@pytest.mark.parametrize(("seed", "program"), [*zip((6, 6, 10), PROGRAMS, strict=True)])
def test_killed_once_and_started_again(laboratory, seed, program, tmp_path):
    how = drawn(seed, program, kills=1, workers=(0,))
    how["workers"][-1] = int(program == "student")  # goes on with other workers
    assert live(laboratory, seed, program, out=tmp_path / "out", **how) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_killed_once_or_twice_at_any_moment(laboratory, seed, tmp_path):
    program = PROGRAMS[seed % 3]
    how = drawn(seed, program, kills=1 + seed // 3 % 2, workers=(0, 0, 1, 2))
    live(laboratory, seed, program, out=tmp_path / "out", **how)
