"""Checks before anything is loaded: what a continued run may change, what there is to prepare."""

import json
import os
import re
import runpy

import pytest

from depth_anything_jax import configs, preflight

HERE = os.getcwd()


def config(name="teacher", variant="demo", **fields):
    c = runpy.run_path(str(configs.folder() / f"{name}.py"))["get_config"](variant)
    c.update_from_flattened_dict(fields)
    return c


def test_student_labels_must_pair_with_sources():
    c = config("student")
    assert preflight.batch_sizes(c) == {"labelled": 4, "unlabelled": 8}
    assert preflight.data_config(c)["unlabelled"][0]["labels"]["type"] == "records"
    c.data.labels = ()
    with pytest.raises(ValueError, match="data.labels names 0 sets of labels for 1"):
        preflight.data_config(c)


def changed_fields(then, now):
    """Names that `preflight` refuses to change from one config to the other."""
    try:
        preflight.check_same_run({"config": json.loads(then.to_json_best_effort())}, now, "runs/x")
    except ValueError as error:
        return re.findall(r"^  ([\w.]+): ", str(error), re.MULTILINE)
    return []


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return (*value, 0) if isinstance(value, tuple) else value + 1


def test_what_is_learned_cannot_change_and_how_it_is_computed_can():
    fields = preflight._flat(config().to_dict())
    free = {"workdir", "init_from", "init_parts", "allow_missing", "fill_missing", "accumulation"}
    free |= {"model.scan", "model.remat", "model.attention", "data.workers", "data.threads"}
    free |= {f for f in fields if f.partition(".")[0] in ("mesh", "checkpoint", "log", "eval")}
    assert len(free) > 18 and len(fields) > 65
    for field, value in fields.items():
        found = changed_fields(config(), config(**{field: another(value)}))
        assert found == ([] if field in free else [field])


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("tfds:data/irs", "tfds:./data//irs/", True),
        ("folder:photos", "photos", True),
        ("rgbd:m.json?exclude=a&slice=[0,9]", f"rgbd:{HERE}/m.json?slice=[0,9]&exclude=a", True),
        ("rgbd:m.json?slice=[0,9]", "rgbd:m.json?slice=[0,8]", False),
        ("tfds:gs://b/irs", "tfds:gs://b/irs/", True),
        ("tfds:gs://b/irs", "tfds:gs://c/irs", False),
        ("tfds:data/irs", "folder:data/irs", False),
    ],
)
def test_sources_are_the_same_however_their_path_is_written(then, now, same):
    a, b = (config(**{"data.labelled": (x,)}) for x in (then, now))
    assert (changed_fields(a, b) == []) is same


def test_a_field_younger_than_the_checkpoint_had_its_default():
    old, default, other = config(), config(), config(**{"loss.trim": 0.3})
    with old.unlocked():
        del old.loss["trim"]
        old.forgotten = 1  # and one that this version does not know
    assert changed_fields(old, default) == []
    assert changed_fields(old, other) == ["loss.trim"]
