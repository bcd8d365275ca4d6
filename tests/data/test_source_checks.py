"""Descriptions of sources tell whether a run would go on with the same examples."""

import pytest

from depth_anything_jax.data import source_checks
from depth_anything_jax.data.sources.base import Subset


class Named:
    name = "photos"

    def __init__(self, *keys):
        self.keys = keys

    def __len__(self):
        return len(self.keys)

    def key(self, index):
        return self.keys[index]

    def __getitem__(self, index):
        raise AssertionError("no record is read")


def described(*sources):
    return source_checks.describe({"labelled": sources})


THEN = described(Named("a"), Named("1", "2", "3"))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (Named("1", "2"), r"data.labelled\[1\], photos: 3 records when it was saved, 2 now"),
        (Named("1", "2", "3", "4"), "3 records when it was saved, 4 now"),
        (Named("1", "3", "2"), "3 records as before, but with other names or in another order"),
        (Named("1", "2", "x"), "3 records as before, but with other names"),
    ],
)
def test_changed_sources_are_refused_or_warned_of(now, message):
    now = described(Named("a"), now)
    with pytest.raises(ValueError, match=f"(?s){message}.*Restore the files; .*allow_changed=True"):
        source_checks.check_unchanged(THEN, now, workdir="runs/x", allowed=False)
    text = source_checks.check_unchanged(THEN, now, workdir="runs/x", allowed=True)
    assert text.startswith("warning: the data of runs/x have changed") and "[0]" not in text


def test_unchanged_sources_and_old_checkpoints_say_nothing():
    same = described(Named("a"), Subset(Named("0", "1", "2", "3"), range(1, 4)))
    for then in (THEN, {}):
        assert not source_checks.check_unchanged(then, same, workdir="x", allowed=False)


def test_of_a_large_source_some_names_are_digested(monkeypatch):
    monkeypatch.setattr(source_checks, "NAMES", 2)
    long, shifted = Named(*"abcdef"), Named(*"bcdefg")
    assert described(long) != described(shifted)
    assert described(long)["labelled"][0]["records"] == 6
    monkeypatch.setattr(Named, "key", lambda self, index: {0: "a", 3: "d"}[index])
    assert described(long) == described(shifted)  # only these two were asked for
