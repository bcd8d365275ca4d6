"""What is scored stands in a log, survives kills, and is never scored twice or by two processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from depth_anything_jax.evaluation.runner import loop, predictors, process_share, score_log
from depth_anything_jax.evaluation.scores.aggregate import ImageScores

KIND = "disparity-affine"
RUN = {"size": 28, "protocol": "da"}


def scores(i, **more):
    return {KIND: ImageScores(f"{i}.png", "set", abs_rel=0.1 + i / 7, n=i, **more)}


def groups_of(n):
    return list(range(n))


def test_a_log_gives_back_every_digit(tmp_path):
    log = score_log.Log(tmp_path / "log.jsonl", RUN)
    first, second = (log.ledger({"set": name}) for name in ("a", "b"))
    assert first.todo(groups_of(3)) == [0, 1, 2]
    first.add({1: scores(1, scale=1e-300, shift=float("inf"))})
    second.todo(groups_of(2))
    second.add({0: scores(0), 1: scores(1)})
    log.close()
    again = score_log.Log(tmp_path / "log.jsonl", RUN, resume=True)
    first, second = (again.ledger({"set": name}) for name in ("a", "b"))
    assert first.todo(groups_of(3)) == [0, 2] and second.todo(groups_of(2)) == []
    assert first.progress() == (1, 3)
    kept = first.known[1][KIND]
    assert kept.abs_rel == 0.1 + 1 / 7 and (kept.scale, kept.shift) == (1e-300, float("inf"))
    assert np.isnan(kept.delta1) and kept.key == "1.png"
    found = first.collect([{2: scores(2)}, {0: scores(0)}])
    assert sorted(found) == [0, 1, 2] and (first.images, first.before) == (3, 1)


@pytest.mark.parametrize(
    "facts, part, said",
    [
        ({**RUN, "size": 42}, {"set": "a"}, "size of the run is 28 there and 42 now"),
        ({**RUN, "new": 1}, {"set": "a"}, "new of the run is None there and 1 now"),
        (RUN, {"set": "b"}, "set of part 1 is 'a' there and 'b' now"),
    ],
)
def test_another_run_is_refused_by_the_first_difference(tmp_path, facts, part, said):
    log = score_log.Log(tmp_path / "log.jsonl", RUN)
    log.ledger({"set": "a"})
    log.close()
    with pytest.raises(ValueError, match=f"{said}.*Choose another --out"):
        score_log.Log(tmp_path / "log.jsonl", facts, resume=True).ledger(part)


def test_an_old_value_that_means_the_same_is_accepted(tmp_path):
    path = tmp_path / "log.jsonl"
    score_log.Log(path, {**RUN, "protocols": "of old"}).close()
    now = {**RUN, "protocols": "of now"}
    score_log.Log(path, now, resume=True, same={"protocols": ("of old",)}).close()
    with pytest.raises(ValueError, match="protocols of the run is 'of old' there"):
        score_log.Log(path, now, resume=True, same={"protocols": ("of another",)})


def test_a_torn_line_counts_as_absent_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    log = score_log.Log(path, RUN)
    part = log.ledger({"set": "a"})
    part.add({0: scores(0), 1: scores(1)})  # a sequence: one line
    part.add({2: scores(2), 3: scores(3)})
    log.close()
    whole = path.read_bytes()
    for cut in (1, 40, len(whole.splitlines()[-1])):  # its end only, its middle, all of it
        path.write_bytes(whole[:-cut])
        again = score_log.Log(path, RUN, resume=True)
        part = again.ledger({"set": "a"})
        assert part.todo(["x", "x", "y", "y"]) == [2, 3], "half a sequence is not taken over"
        part.add({2: scores(2), 3: scores(3)})
        again.close()
        assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'{"part"', b'["part"'))
    with pytest.raises(ValueError, match="line 2: not a line of a score log"):
        score_log.Log(path, RUN, resume=True)


def test_shares_hold_every_image_once_and_sequences_whole():
    for groups in (range(11), ["a", "a", "b", "c", "c", "c", "d", "a"]):
        shares = [process_share.Share(p, 3).mine(groups) for p in range(3)]
        assert sorted(sum(shares, [])) == list(range(len(groups)))
        owners = {g: {p for p in range(3) for i in shares[p] if groups[i] == g} for g in groups}
        assert all(len(own) == 1 for own in owners.values())
        assert all(shares)


class Together(process_share.Share):
    """Processes of a test: what each of them gave, in order."""

    def __init__(self, index, count, others):
        super().__init__(index, count)
        object.__setattr__(self, "others", others)

    def gather(self, value):
        return [*self.others.pop(0), value]


def test_an_image_of_two_processes_and_an_error_of_another_are_told():
    mine = score_log.Ledger(Together(1, 2, [[None], [({1: scores(1)}, 0)]]))
    mine.todo([0, 1])
    with pytest.raises(ValueError, match=r"1.png was scored by two processes"):
        mine.collect([{1: scores(1)}])
    mine = score_log.Ledger(Together(1, 2, [["OSError: torn.jpg"]]))
    mine.todo([0, 1])
    with pytest.raises(RuntimeError, match="process 0 failed: OSError: torn.jpg"):
        mine.collect([{1: scores(1)}])


class Scenes:
    """Records of three sequences, whose names are known unread."""

    def __init__(self, count=9):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def key(self, i):
        return f"{i}"

    def sequence(self, i):
        return "abc"[i // 3]

    def __getitem__(self, i):
        self.read.append(i)
        depth = np.random.default_rng(i).uniform(1, 9, (20, 28)).astype(np.float32)
        image = np.random.default_rng(i).integers(0, 256, (20, 28, 3), np.uint8)
        return {
            "key": self.key(i), "image": image, "depth": depth, "valid": depth > 0,
            "sequence": self.sequence(i), "dataset": "scenes", "domain": "indoor",
        }  # fmt: skip


def network(stop_at=99):
    """A stand-in for a model that dies with its n-th image."""
    seen = []

    def predict(images):
        seen.append(len(images))
        if len(seen) == stop_at:
            raise RuntimeError("killed")
        return images.mean(-1)

    return predictors.of_network(predict, kind=KIND)


@pytest.mark.parametrize("protocol", ["golden", "vda"])
def test_what_was_scored_is_not_scored_again_and_nothing_else_changes(tmp_path, protocol):
    run = {"protocol": protocol, "switches": {"input_size": 28}, "threads": 1}
    straight = loop.evaluate_candidate(network(), Scenes(), **run).per_image
    log = score_log.Log(tmp_path / "log.jsonl", RUN)
    with pytest.raises(RuntimeError, match="killed"):
        loop.evaluate_candidate(network(9), Scenes(), ledger=log.ledger({}), **run)
    log.close()
    again = score_log.Log(tmp_path / "log.jsonl", RUN, resume=True)
    part, source = again.ledger({}), Scenes()
    before = set(part.known)
    if protocol == "vda":  # a sequence is there with all its frames or not at all
        assert before == {0, 1, 2, 3, 4, 5}
    else:
        assert {0, 1, 2, 3, 4, 5} <= before < set(range(9))
    told = []
    found = loop.evaluate_candidate(
        network(), source, ledger=part, progress=lambda *x: told.append(x), **run
    )
    assert repr(found.per_image) == repr(straight)  # NaN is no NaN
    assert before.isdisjoint(source.read) and set(source.read) | before == set(range(9))
    assert told[0] == (len(before), 9) and told[-1] == (9, 9)
    logged = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    keys = [i for line in logged for i in line.get("scored", ())]
    assert sorted(keys) == sorted(map(str, range(9))), "each image stands there once"


PROGRAM = """
import sys
from depth_anything_jax import evaluate
sys.argv[0] = "evaluate"
evaluate.main()
"""


def program(out, *more):
    """The program on two sets of scenes, of which the truth is scored."""
    command = [sys.executable, "-c", PROGRAM, "--checkpoint=baseline:mean", f"--out={out}"]
    command += ["--data=scenes:A?count=30&size=140", "--data=scenes:B?count=20&size=140", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_program_ends_with_the_same_bits(tmp_path):
    straight, killed = program(tmp_path / "straight"), program(tmp_path / "killed", "--threads=1")
    log = tmp_path / "killed/log.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
        if lines >= 5:
            break
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    lines = log.read_bytes().count(b"\n")
    assert 5 <= lines < 40, "killed in the middle"
    assert not (tmp_path / "killed/report.html").exists() or lines > 33
    resumed = program(tmp_path / "killed", "--resume")
    out, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert "were scored before" in said
    expected, error = straight.communicate()
    assert straight.returncode == 0, error
    assert out == expected
    a, b = (json.loads((tmp_path / x / "scores.json").read_text()) for x in ("straight", "killed"))
    assert a["sets"] == b["sets"] and a["images"] == b["images"] and len(a["images"]) == 50
    for name in ("scores.csv", "table.md", "report.html"):
        texts = [(tmp_path / x / name).read_text() for x in ("straight", "killed")]
        assert texts[0] == texts[1], name
