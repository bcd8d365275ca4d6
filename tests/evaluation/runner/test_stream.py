"""Decoding, device and metrics run side by side, and nothing waits in memory that need not."""

import threading

import numpy as np
import pytest

from depth_anything_jax.evaluation import protocols
from depth_anything_jax.evaluation.runner import predictors, stream
from depth_anything_jax.evaluation.scores import scoring

KIND = "disparity-affine"


class Scenes:
    """Twelve records in three sequences."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        depth = np.random.default_rng(i).uniform(1, 9, (28, 28)).astype(np.float32)
        return {
            "key": f"{i}", "image": np.full((28, 28, 3), i, np.uint8), "depth": depth,
            "valid": depth > 0, "sequence": "abc"[i // 4], "dataset": "s", "domain": "indoor",
        }  # fmt: skip


def scores(predict, protocol="golden", **options):
    rules = stream.ProtocolResolver([KIND], protocol, {"input_size": 28})
    groups = {i: "abc"[i // 4] if rules.per == "sequence" else i for i in range(12)}
    made = predictors.of_network(predict, kind=KIND)
    return stream.scores(made, Scenes(), groups, rules, **options)


def test_metrics_of_two_images_are_computed_while_the_device_gets_more(monkeypatch):
    """The first two images' metrics end only when both have begun and the device has a sixth."""
    both, more, calls = threading.Barrier(2, timeout=60), threading.Event(), []
    real = scoring.score

    def score(prediction, kind, record, *rest, **options):
        if record["key"] in "01":
            both.wait()
            assert more.wait(60)
        return real(prediction, kind, record, *rest, **options)

    def predict(images):
        calls.append(len(images))
        if len(calls) == 6:
            more.set()
        return images.mean(-1)

    monkeypatch.setattr(scoring, "score", score)
    found = [i for some in scores(predict, threads=2) for i in some]
    assert sorted(found) == list(range(12)) and sum(calls) == 12


def test_a_sequence_is_scored_when_it_is_complete():
    """Not at the end of the set: its frames need not be kept until then."""
    calls = []

    def predict(images):
        calls.append(len(images))
        return images.mean(-1)

    begun = []
    for some in scores(predict, "vda", threads=1):
        begun.append((sorted(some), len(calls)))
    assert [indices for indices, _ in begun] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # A scored part is handed on when more than two are under way, or at the end.
    assert begun[-1][1] == 12


def test_what_was_predicted_before_an_error_is_scored():
    calls = []

    def predict(images):
        calls.append(len(images))
        if len(calls) == 7:
            raise RuntimeError("out of memory")
        return images.mean(-1)

    found = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for some in scores(predict, threads=2):
            found += some
    # Two batches were on the device.
    assert set(range(4)) <= set(found) <= set(range(6)) and len(found) == len(set(found))


def test_an_unknown_domain_that_decides_the_cap_is_named(caplog):
    rules = stream.ProtocolResolver([KIND, "depth-affine"], "da", {})
    for domain in ("", "Indoor", "indoor", "indoor_synth"):
        rules.of({"dataset": "mine", "domain": domain})
    texts = [r.getMessage() for r in caplog.records]
    assert len(texts) == 2 and all("up to 10 and 80 m); up to 80 m here" in t for t in texts)
    assert "'mine' have the domain 'Indoor', and da scores indoor" in texts[1]
    caplog.clear()
    rules.of({"dataset": "nyu", "domain": ""})  # the table has this set
    stream.ProtocolResolver([KIND], "da", {"max_depth": 5.0}).of({"dataset": "mine"})
    far = stream.ProtocolResolver([KIND], "da", {"min_depth": 15.0})  # above the cap indoors
    assert far.of({"dataset": "mine"}).max_depth == 80
    with pytest.raises(protocols.ProtocolError, match="min_depth"):
        far.of({"dataset": "mine", "domain": "indoor"})
    assert not caplog.records
