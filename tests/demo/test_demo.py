"""The demo: its programs and their order, resuming, the table's honesty, the report."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from depth_anything_jax.data.scenes.source import SceneSource
from depth_anything_jax.data.sources.base import disparity_of
from depth_anything_jax.demo import report
from depth_anything_jax.demo import stages as demo_stages
from depth_anything_jax.demo.__main__ import demo
from depth_anything_jax.demo.finding import finding
from depth_anything_jax.demo.first_picture import FirstPicture
from depth_anything_jax.demo.plan import ABLATION, CONTROLS, DOMAINS, RUNS, Plan
from depth_anything_jax.demo.progress import Progress
from depth_anything_jax.demo.stages import Marks, Stage
from depth_anything_jax.evaluation.scores import metrics
from depth_anything_jax.inference import predictor

SMALL = Plan(size=28, images=6, held_out=4)


def flags_of(stage):
    return dict(x.removeprefix("--").split("=", 1) for x in stage.command if "=" in x)


def test_stages_are_the_programs_a_user_runs(tmp_path):
    stages = demo_stages.stages(dataclasses.replace(SMALL, folder=str(tmp_path)))
    assert [s.name for s in stages] == ["teacher", "alone", "labels", "student", "shuffled"]
    assert [s.command[0] for s in stages] == ["train", "train", "pseudo_label", "train", "train"]
    by = {s.name: s for s in stages}
    assert flags_of(by["teacher"])["config"] == "configs/teacher.py:demo"
    for name in ("student", "shuffled", "alone"):
        assert flags_of(by[name])["config"] == "configs/student.py:demo"
    student, shuffled = flags_of(by["student"]), flags_of(by["shuffled"])
    changed = {k for k in student if student[k] != shuffled[k]}
    assert changed == {"workdir", "config.data.labels"}
    assert "?shuffle=1" in shuffled["config.data.labels"]
    # labels are made for exactly the images that the student reads
    data = by["labels"].command[by["labels"].command.index("--data") + 1]
    assert data in student["config.data.unlabelled"]
    assert "labelled=False" in data and "scenes:B" in data


def test_alone_has_equal_updates_and_equal_labelled_samples():
    import runpy

    from ml_collections import config_flags  # noqa: F401  (the configs' own dependency)

    from depth_anything_jax import configs

    config = runpy.run_path(configs.resolve("configs/student.py"))["get_config"]("demo")
    fields = dict(f.split("=", 1) for f in demo_stages.alone())
    labelled = (
        config.batch_size
        * config.labelled_ratio
        // (config.labelled_ratio + config.unlabelled_ratio)
    )
    assert int(fields["batch_size"]) == labelled
    assert fields["unlabelled_ratio"] == "0"
    assert "total_steps" not in fields and "optim" not in str(fields)


def test_three_seeds_have_their_own_folders_and_labels():
    plan = dataclasses.replace(SMALL, seeds=(0, 1, 2))
    stages = demo_stages.stages(plan)
    assert len(stages) == 15
    assert len({s.workdir for s in stages if s.workdir}) == 12
    for stage in stages:
        if stage.name == "student":
            assert f"labels-{stage.seed}" in flags_of(stage)["config.data.labels"]
            assert flags_of(stage)["config.seed"] == str(stage.seed)


def test_a_control_lacks_one_part_of_the_method_and_nothing_else(tmp_path):
    plan = dataclasses.replace(ABLATION, folder=str(tmp_path))
    stages = {s.title: s for s in demo_stages.stages(plan)}
    assert len(stages) == 3 * (1 + len(plan.runs))  # the labels are no run
    changed = {
        "undistorted": {"config.perturb.distort"},
        "uncut": {"config.perturb.cutmix.p"},
        "unaligned": {"config.loss.weights"},
        "misaligned": {"config.loss.feat_input"},
        "shuffled": {"config.data.labels"},
    }
    assert set(changed) == {*plan.controls, "shuffled"}
    for seed in plan.seeds:
        student = flags_of(stages[f"student-{seed}"])
        for name, fields in changed.items():
            control = flags_of(stages[f"{name}-{seed}"])
            differ = {k for k in student | control if student.get(k) != control.get(k)}
            assert differ == fields | {"workdir"}, name
    titles = {b for a, b, _ in report.PAIRS if a == "student"}
    assert titles >= set(changed) and set(report.ROWS) >= set(plan.runs)


def test_controls_are_fields_that_the_trainer_takes(tmp_path):
    import runpy

    from depth_anything_jax import configs
    from depth_anything_jax.training import config_checks

    for name, overrides in CONTROLS.items():
        config = runpy.run_path(configs.resolve("configs/student.py"))["get_config"]("demo")
        for field, text in (x.split("=") for x in overrides):
            value = text if text == "shuffled" else ast.literal_eval(text)
            config.update_from_flattened_dict({field: value})
        with pytest.raises(FileNotFoundError, match="labels_demo"):  # all else is in order
            config_checks.check(config, config_checks.batch_sizes(config), str(tmp_path / name))


def test_marks_resume_and_notice_changed_commands(tmp_path):
    marks = Marks(str(tmp_path))
    assert not marks.done("a", ["x"])
    marks.set("a", ["x"], 1.0)
    assert Marks(str(tmp_path)).done("a", ["x"]) and not marks.done("a", ["y"])


def fake_program(monkeypatch, script):
    """Every stage becomes `python -c script TITLE FOLDER`."""

    class Program(subprocess.Popen):
        def __init__(self, command, **kwargs):
            super().__init__([sys.executable, "-c", script, command[-1]], **kwargs)

    monkeypatch.setattr(demo_stages.subprocess, "Popen", Program)


def fake_stage(name, *after):
    return Stage(name, 0, ("train", f"{name}-0"), "", tuple(f"{a}-0" for a in after))


def test_a_failing_program_stops_the_demo_and_names_its_log(tmp_path, monkeypatch):
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    stage = Stage("teacher", 0, ("train", "--config=configs/nonsense.py"), str(tmp_path))
    said = []

    def run(stage):
        demo_stages.run_stages([stage], plan, lambda s, line: said.append(line), pytest.fail)

    with pytest.raises(SystemExit, match=r"teacher-0 ended with status .*teacher-0\.log"):
        run(stage)
    assert "nonsense" in (tmp_path / "logs" / "teacher-0.log").read_text()
    assert len(said) > 1
    # a program that stops early without an error is no finished stage
    fake_program(monkeypatch, "pass")
    with pytest.raises(SystemExit, match="before its last step"):
        run(stage)


@pytest.mark.parametrize("jobs", [1, 2])
def test_stages_wait_for_those_they_need_and_run_side_by_side(tmp_path, monkeypatch, jobs):
    """a and b start together where there is room; c waits for a, d for c."""
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    fake_program(monkeypatch, "import sys, time; time.sleep(0.5); print('end of', sys.argv[1])")
    todo = [fake_stage("d", "c"), fake_stage("a"), fake_stage("c", "a"), fake_stage("b")]
    events = []
    demo_stages.run_stages(
        todo,
        plan,
        lambda stage, line: events.append(("end" if "end of" in line else "start", stage.name)),
        lambda stage, seconds: events.append(("done", stage.name)),
        jobs=jobs,
    )
    at = {event: i for i, event in enumerate(events)}
    assert len(events) == len(at) == 12
    for before, after in ("ac", "cd"):
        assert at["done", before] < at["start", after]
    side_by_side = at["start", "b"] < at["done", "a"]
    assert side_by_side == (jobs == 2)


def test_a_failure_stops_the_programs_beside_it_and_starts_no_more(tmp_path, monkeypatch):
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    script = (
        "import sys, time; print('here'); time.sleep(0.5); sys.argv[1] == 'a-0' and sys.exit(3)"
    )
    fake_program(monkeypatch, script + "; time.sleep(60)")
    started = []
    begun = time.monotonic()
    with pytest.raises(SystemExit, match="a-0 ended with status 3"):
        demo_stages.run_stages(
            [fake_stage("a"), fake_stage("b"), fake_stage("c")],
            plan,
            lambda stage, line: started.append(stage.name),
            pytest.fail,
            jobs=2,
        )
    assert set(started) == {"a", "b"}
    assert time.monotonic() - begun < 30


def test_programs_side_by_side_share_the_cores(tmp_path, monkeypatch):
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    if not hasattr(os, "sched_getaffinity") or len(demo_stages.cores()) < 2:
        pytest.skip("needs two cores whose use can be restricted")
    script = "import os, time; time.sleep(0.5); print('cores', os.sched_getaffinity(0))"
    fake_program(monkeypatch, script)
    lines = []
    demo_stages.run_stages(
        [fake_stage("a"), fake_stage("b")],
        plan,
        lambda stage, line: lines.append(line),
        lambda *_: None,
        jobs=2,
    )
    shares = [ast.literal_eval(x.removeprefix("cores ")) for x in lines if x.startswith("cores")]
    assert len(shares) == 2 and not shares[0] & shares[1]
    assert shares[0] | shares[1] == set(demo_stages.cores())


def test_mean_label_is_what_a_constant_can_know(tmp_path):
    source = SceneSource("A", 5, size=28, cache=str(tmp_path))
    mean = report.mean_label(source)
    expected = np.mean(
        [
            metrics.normalise(disparity_of(source[i]).astype(float).ravel()).reshape(28, 28)
            for i in range(5)
        ],
        axis=0,
    )
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)  # kept in float32


def fake_scores(shift, n=60, seeds=1):
    """Scores in which the student is better than alone by `shift`, up to a little noise."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.8, n)
    offsets = {"constant": 0.4, "teacher": 0.0, "alone": 0.05, "student": 0.05 - shift}
    out = {}
    for row, offset in {**offsets, "shuffled": 0.3}.items():
        out[row] = {}
        for domain in DOMAINS:
            error = base + offset + 0.02 * rng.standard_normal((seeds, n))
            out[row][domain] = {"abs_rel": error / 2, "norm_l1": error, "delta1": 1 - error}
    return out


@pytest.mark.parametrize(
    "shift, said", [(0.05, "better"), (-0.05, "worse"), (0.0, "no effect measured")]
)
def test_verdicts_follow_the_intervals(shift, said):
    scores = fake_scores(shift)
    for metric in report.METRICS:
        found = report.interval(scores, "student", "alone", "B", metric)
        assert report.verdict(found, metric) == said
    lines = report.table(scores).splitlines()
    row = next(x for x in lines if x.startswith("| student − alone") and "| B |" in x)
    assert row.count(said) == 3


def test_table_prints_what_was_measured():
    scores = fake_scores(0.02, seeds=3)
    text = report.table(scores)
    row = next(x for x in text.splitlines() if x.startswith("| student (A"))
    cells = [float(c) for c in row.strip("|").split("|")[1:]]
    expected = [scores["student"][d][m].mean() for d in "ABC" for m in report.METRICS]
    np.testing.assert_allclose(cells, expected, atol=5.1e-4)  # three digits are printed
    ratio = scores["constant"]["B"]["norm_l1"].mean() / scores["teacher"]["B"]["norm_l1"].mean()
    interval = metrics.ratio_interval(*(scores[r]["B"]["norm_l1"] for r in ("constant", "teacher")))
    assert interval.mean == pytest.approx(ratio)
    assert f"{ratio:.2f} x [{interval.low:.2f}, {interval.high:.2f}] the teacher's" in text
    assert "released" not in text
    scores["released"] = scores["teacher"]
    assert "| released model |" in report.table(scores)


def test_a_table_of_several_seeds_shows_each():
    assert "seed 0" not in report.table(fake_scores(0.05))
    scores = fake_scores(0.05, seeds=3)
    lines = report.table(scores).splitlines()
    row = next(x for x in lines if x.startswith("| student − alone |"))
    cells = [float(x) for x in row.strip("|").split("|")[1:]]
    differ = scores["student"]["B"]["norm_l1"] - scores["alone"]["B"]["norm_l1"]
    np.testing.assert_allclose(cells, differ.mean(1), atol=5.1e-4)  # three digits are printed


def test_a_harness_in_which_shuffled_labels_do_no_harm_is_called_broken():
    scores = fake_scores(0.05)
    assert report.broken(scores) == ""
    scores["shuffled"] = scores["student"]
    assert "this table is not valid" in report.broken(scores)


@pytest.mark.parametrize(
    "shift, said",
    [(0.05, "less error than"), (-0.05, "more error than"), (0.0, "no measurably different")],
)
def test_the_finding_says_what_the_intervals_say(shift, said):
    scores = fake_scores(shift)
    text = finding(scores)
    mean = {row: by["B"]["norm_l1"].mean() for row, by in scores.items()}
    assert said in text and f"{mean['student']:.3f} against {mean['alone']:.3f}" in text
    assert f"give {mean['shuffled']:.3f}, which is worse than the student" in text
    assert f"{mean['constant']:.3f}, which is worse than the student" in text
    assert text.count(". ") == 1 and text.endswith(".")  # two sentences
    scores["shuffled"], scores["constant"] = scores["student"], scores["teacher"]
    scores["constant"] = {"B": {"norm_l1": scores["student"]["B"]["norm_l1"] - 0.1}}
    text = finding(scores)
    assert "which is not measurably different from the student, and one map" in text
    assert text.endswith("which is better than the student.")


def test_the_teachers_picture_appears_while_it_learns(tmp_path, monkeypatch):
    strips = tmp_path / "teacher" / "strips"
    strips.mkdir(parents=True)
    picture = FirstPicture(str(tmp_path / "teacher"), str(tmp_path))
    tile = np.random.default_rng(0).integers(0, 255, (4, 12, 3), dtype=np.uint8)

    def draw(step):
        Image.fromarray(tile).save(strips / f"labelled_{step:08d}.png")

    draw(1)
    assert picture.look() == "" and not list(tmp_path.glob("*.png"))  # it has learned nothing yet
    draw(200)
    whole = (strips / "labelled_00000200.png").read_bytes()
    (strips / "labelled_00000200.png").write_bytes(whole[:40])
    assert picture.look() == ""  # half of it is there
    (strips / "labelled_00000200.png").write_bytes(whole)
    said = picture.look()
    assert said.endswith("teacher-so-far.png: scene | true disparity | teacher after 200 steps")
    shown = np.asarray(Image.open(tmp_path / "teacher-so-far.png"))
    np.testing.assert_array_equal(shown, tile.repeat(3, 0).repeat(3, 1))
    assert picture.look() == ""  # once
    # the demo looks whenever the first teacher prints a line
    draw(400)
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    told = []
    monkeypatch.setattr(Progress, "say", lambda self, title, text: told.append(text))
    progress = Progress(plan, demo_stages.stages(plan))
    progress._tell(fake_stage("alone"), "x")
    progress._tell(fake_stage("teacher"), "y")
    assert told[:2] == ["x", "y"] and told[2].endswith("after 400 steps") and len(told) == 3


def test_cpu_time_of_programs_is_added_up(tmp_path):
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    progress = Progress(plan, [])
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    progress._mark("scenes", [], 0.0)
    first = Marks(str(tmp_path)).read()["all"]["cpu_seconds"]
    assert 0 < first < demo_stages.cpu_seconds()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    Progress(plan, [])._mark("scenes", [], 0.0)  # another call, which begins afterwards
    assert Marks(str(tmp_path)).read()["all"]["cpu_seconds"] == pytest.approx(first, abs=0.1)


def test_active_share_says_when_it_says_nothing():
    assert "off" in report.active_share([{"step": 1}])
    rows = [{"features/active_fraction": 0.0}] * 5
    assert "does not test it" in report.active_share(rows)
    rows = [{"features/active_fraction": x} for x in (0.0, 0.1, 0.2, 0.3, 0.4)]
    assert "20.0% of the tokens, 40.0% in the last fifth" in report.active_share(rows)


def test_report_is_one_file_with_everything_in_it(tmp_path, monkeypatch):
    plan = dataclasses.replace(SMALL, folder=str(tmp_path))
    logged = {
        name: [{"step": s, "loss/labelled": 1 / s, "features/active_fraction": 0.1} for s in (1, 2)]
        for name in RUNS
    }
    monkeypatch.setattr(report, "curves", lambda plan: logged)
    monkeypatch.setattr(
        report,
        "predictors",
        lambda plan, weights: ((row, 0, 28, lambda x: x[..., 0]) for row in ("teacher", "student")),
    )
    docs = tmp_path / "docs"
    marks = {"teacher-0": {"seconds": 61.0}, "all": {"seconds": 61.0, "cpu_seconds": 90.0}}
    report.write(plan, fake_scores(0.05), marks, docs=str(docs))
    page = (tmp_path / "report.html").read_text()
    assert page.count("src='data:image/png;base64,") == page.count("<img ") == 4
    # the finding and the picture of B come first, then the tables
    at = [page.index(x) for x in ("On pictures of a kind", "Domain B", "<table>", "Domain A")]
    assert at == sorted(at)
    assert page.count("<span>true disparity</span>") == len(DOMAINS)  # heads above each picture
    assert "src='http" not in page and "better" in page and "not DINOv2" in page
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert set(saved["student"]["B"]) == set(report.METRICS)
    (note,) = docs.glob("*.md")
    said = note.read_text()
    assert "L_feat acted on 10.0%" in said
    assert "1.0 min and 1.5 CPU minutes in total" in said
    assert said.index(finding(fake_scores(0.05))) < said.index("-B.png") < said.index("| A AbsRel")
    assert len(list((docs / "images").glob("*.png"))) == 4


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_the_whole_demo_in_little(tmp_path, monkeypatch):
    """All programs in earnest, two steps each; a second call runs none of them again."""
    monkeypatch.chdir(tmp_path)
    plan = Plan(
        folder=str(tmp_path / "demo"),
        size=28,
        images=12,
        held_out=11,
        teacher=("total_steps=2",),
        student=("total_steps=2",),
    )
    scores = demo(plan)
    assert set(scores) == {"constant", *RUNS}
    assert all(
        np.isfinite(v).all() for r in scores.values() for d in r.values() for v in d.values()
    )
    assert (tmp_path / "demo/report.html").exists()
    monkeypatch.setattr(demo_stages, "_start", None)
    again = demo(plan)
    for row in scores:
        np.testing.assert_array_equal(scores[row]["B"]["norm_l1"], again[row]["B"]["norm_l1"])


def test_help_needs_no_jax():
    code = "import sys; import depth_anything_jax.demo; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_of_the_demos_divide_over_the_devices(monkeypatch):
    count = jax.local_device_count()
    assert predictor.batch_of(20) % count == 0 and 20 <= predictor.batch_of(20) < 20 + count
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert predictor.batch_of(20) == 20
    monkeypatch.setattr(demo_stages, "accelerated", lambda: True)
    labels = next(s for s in demo_stages.stages(Plan()) if s.name == "labels")
    assert labels.command[-2:] == ("--batch_size", "0")  # the program's own: 8 a device
    assert demo_stages.default_jobs() == 1
