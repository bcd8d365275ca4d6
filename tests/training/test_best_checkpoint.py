"""The checkpoint with the best score: what is kept, over restarts and failed scores."""

import numpy as np
import pytest

from depth_anything_jax.checkpoints import orbax_io
from depth_anything_jax.training.best_checkpoint import BestCheckpoint

ERROR, SHARE = "eval/nyu/abs_rel", "eval/nyu/delta1"


def run(workdir, name, values, *, start=0):
    """Scores `values` at steps start + 1, …; returns the step that is kept at the end."""
    best = BestCheckpoint(str(workdir), name, (ERROR, SHARE))
    for step, value in enumerate(values, start + 1):
        scores = {} if value is None else {ERROR: value, SHARE: value}
        best.save(step, {"params": {"x": np.full(3, step)}}, {"next_step": step}, scores)
    best.close()
    params, meta = orbax_io.load_params(workdir / "best")
    assert (params["x"] == meta["step"]).all() and meta["next_step"] == meta["step"]
    assert meta["best"]["score"] == name
    return meta["step"]


def test_the_best_of_a_score_is_kept_and_of_equals_the_first(tmp_path):
    assert run(tmp_path / "a", ERROR, [0.3, 0.2, 0.2, None, float("nan"), 0.25]) == 2
    assert run(tmp_path / "b", SHARE, [0.3, 0.4, 0.4, None, 0.35]) == 2
    assert len(list((tmp_path / "a" / "best").iterdir())) == 1


def test_a_resumed_run_knows_the_best_so_far(tmp_path):
    assert run(tmp_path, ERROR, [0.3, 0.2]) == 2
    assert run(tmp_path, ERROR, [0.25, 0.21], start=2) == 2
    assert run(tmp_path, ERROR, [0.1], start=4) == 5
    # Killed, and step 4 done again from an older checkpoint has another outcome.
    assert run(tmp_path, ERROR, [0.05], start=3) == 4
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == ["4", "5.superseded"]
    assert run(tmp_path, SHARE, [0.01], start=4) == 5  # another score begins anew


def test_a_score_that_the_run_does_not_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_best='eval/kitti/rmse': this run logs eval/nyu/abs"):
        BestCheckpoint(str(tmp_path), "eval/kitti/rmse", (ERROR, SHARE))
    with pytest.raises(ValueError, match="logs none, because eval.every is 0"):
        BestCheckpoint(str(tmp_path), ERROR, ())
    BestCheckpoint(str(tmp_path), "", ()).close()
    assert not list(tmp_path.iterdir())
