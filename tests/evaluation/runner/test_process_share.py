"""The same table on 1, 2 and 8 devices, and of two processes as of one."""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from depth_anything_jax import models
from depth_anything_jax.data import scenes
from depth_anything_jax.evaluation.runner import loop, predictors, process_share, score_log
from depth_anything_jax.evaluation.scores import aggregate
from depth_anything_jax.inference import predictor
from tests.helpers.several_processes import start

KIND = "disparity-affine"
RUN = {"protocol": "golden", "switches": {"input_size": 28}}


@pytest.fixture(scope="module")
def source():
    """A number of images that no number of devices divides."""
    return scenes.SceneSource("A", 11, 5, 42, cache="")


@pytest.fixture(scope="module")
def network():
    """The demo's network with parameters that make its output vary."""
    model = models.build("demo")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        return (middle + 0.05 * rng.normal(size=leaf.shape)).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def table(images):
    return aggregate.means(images, "image")


def test_devices_change_a_table_by_rounding_only(source, network):
    """float32 on CPU; another number of rows in a matrix product is another order of its sums."""
    found = {}
    for n in (1, 2, 8):
        predict = predictor.Predictor(*network, devices=jax.devices()[:n])
        candidate = predictors.of_network(predict, kind=KIND, batch_size=n)
        images = loop.evaluate_candidate(candidate, source, **RUN).per_image
        assert [i.key for i in images] == [source.key(i) for i in range(11)]
        assert candidate.stats.padding == (-11) % n and candidate.stats.images == 11
        found[n] = table(images)
    assert 0.01 < found[1]["abs_rel"] < 1 and len({i.abs_rel for i in images}) == 11
    for n in (2, 8):
        for name, value in found[1].items():
            assert found[n][name] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), name


def test_shares_give_the_table_of_the_whole_from_the_same_predictions(source):
    predict = lambda images: images.mean(-1)  # noqa: E731
    whole = loop.evaluate_candidate(
        predictors.of_network(predict, kind=KIND), source, **RUN
    ).per_image
    for count in (2, 8):
        parts = []
        for index in range(count):
            alone = _Alone(index, count)
            kept = score_log.Ledger(alone)
            loop.evaluate_candidate(
                predictors.of_network(predict, kind=KIND, batch_size=3), source, ledger=kept, **RUN
            )
            parts.append([kept.known[i][KIND] for i in sorted(kept.known)])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        together = aggregate.merge(parts)
        for name, value in table(whole).items():
            assert table(together)[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


class _Alone(process_share.Share):
    """A share whose process is the only one that runs."""

    def gather(self, value):
        return [value]


def start_scoring(out, processes, *more):
    """The program in so many processes."""
    command = ["-m", "depth_anything_jax.evaluate", "--checkpoint=baseline:mean",
               "--data=scenes:A?count=7&size=42", "--data=scenes:B?count=4&size=42",
               f"--out={out}", *more]  # fmt: skip
    if processes > 1:
        command.append("--distributed")
    return start(command, processes, stderr=subprocess.PIPE)


def said(runs):
    """(standard output without what gloo writes there, standard error) of each."""
    outputs = [run.communicate() for run in runs]
    lines = [[x for x in out.splitlines(True) if not x.startswith("[Gloo]")] for out, _ in outputs]
    return [("".join(x), error) for x, (_, error) in zip(lines, outputs, strict=True)]


@pytest.mark.nightly
def test_two_processes_give_the_files_of_one(tmp_path):
    (alone,) = start_scoring(tmp_path / "one", 1)
    expected = alone.communicate()[0]
    runs = start_scoring(tmp_path / "two", 2)
    outputs = said(runs)
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == expected and "AbsRel" in expected
    assert outputs[1][0] == "", "one of them speaks"
    for name in ("scores.csv", "table.md", "report.html"):
        one, two = ((tmp_path / run / name).read_text() for run in ("one", "two"))
        if name == "report.html":  # tells how it was computed
            assert "<td>processes</td><td>2</td>" in two
            two = two.replace("<td>processes</td><td>2</td>", "<td>processes</td><td>1</td>")
        assert one == two
    logs = [(tmp_path / "two" / name).read_text() for name in ("log.jsonl", "log-1.jsonl")]
    scored = [
        (line["of"], i)
        for log in logs
        for line in map(json.loads, log.splitlines())
        for i in line.get("scored", ())
    ]
    assert len(scored) == len(set(scored)) == 11
    assert all(log.count('"scored"') >= 5 for log in logs), "both worked"
    # A folder that is taken is refused by all, and a finished run that is resumed scores nothing.
    runs = start_scoring(tmp_path / "two", 2)
    outputs = [run.communicate()[1] for run in runs]
    assert all("is not empty" in text for text in outputs)
    assert [run.returncode for run in runs] == [1, 1]
    runs = start_scoring(tmp_path / "two", 2, "--resume")
    outputs = said(runs)
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == expected and "7 were scored before" in outputs[0][1]
    again = [(tmp_path / "two" / name).read_text() for name in ("log.jsonl", "log-1.jsonl")]
    assert again == logs


@pytest.mark.nightly
def test_an_error_in_one_process_ends_both(tmp_path):
    """The image that is torn is of the second process's share."""
    import cv2

    pairs = []
    for i in range(4):
        image, depth = tmp_path / f"{i}.png", tmp_path / f"{i}_depth.png"
        cv2.imwrite(str(image), np.full((30, 40, 3), 50 * i, np.uint8))
        cv2.imwrite(str(depth), np.arange(1200, dtype=np.uint16).reshape(30, 40) + 1000)
        pairs.append({"rgb": image.name, "depth": depth.name, "fmt": "png16", "scale": 1000})
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    (tmp_path / "manifest.json").write_text(json.dumps(pairs))
    runs = start_scoring(tmp_path / "out", 2, f"--data=rgbd:{tmp_path}/manifest.json")
    outputs = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [1, 1], outputs
    assert "process 1 failed" in outputs[0] and "1.png" in outputs[0] and "1.png" in outputs[1]
