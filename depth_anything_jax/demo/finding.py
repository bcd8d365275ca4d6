"""Says in two sentences what the demo found: the opening of its report."""

from __future__ import annotations

import numpy as np

from depth_anything_jax.evaluation.scores import metrics

Scores = dict[str, dict[str, dict[str, np.ndarray]]]  # row -> domain -> metric -> (seeds, images)


def finding(scores: Scores) -> str:
    """Formats the demo's claim and its controls, on domain B, as two sentences.

    The verdicts are those of the paired intervals: an effect that was not measured is called so.
    """
    mean = {row: float(by["B"]["norm_l1"].mean()) for row, by in scores.items()}
    found = _against(scores, "alone")
    share = f"{abs(found.mean) / mean['alone']:.1%}"
    effect = (
        "has no measurably different error from"
        if not found.clear
        else f"has {share} {'less' if found.mean < 0 else 'more'} error than"
    )
    return (
        "On pictures of a kind that nobody labelled (domain B), the student that also learned "
        f"from unlabelled pictures {effect} the same student without them: normalised L1 "
        f"{mean['student']:.3f} against {mean['alone']:.3f}, difference {found.mean:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}]. Pseudo labels of other pictures give "
        f"{mean['shuffled']:.3f}, which is {_beside(scores, 'shuffled')}, and one map for all "
        f"pictures {mean['constant']:.3f}, which is {_beside(scores, 'constant')}."
    )


def _against(scores: Scores, row: str) -> metrics.Interval:
    """The paired interval of student - row on B; seeds are averaged first."""
    return metrics.paired_interval(scores["student"]["B"]["norm_l1"], scores[row]["B"]["norm_l1"])


def _beside(scores: Scores, row: str) -> str:
    found = _against(scores, row)
    if not found.clear:
        return "not measurably different from the student"
    return f"{'worse' if found.mean < 0 else 'better'} than the student"
