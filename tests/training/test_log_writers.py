"""Weights & Biases beside metrics.jsonl: one run, also after a restart; a stand-in records it."""

import sys
import types

import numpy as np
import pytest

from depth_anything_jax.training import config_checks, log_writers, logger
from tests.helpers import tiny_runs

CONFIG = {"seed": 0, "optim": {"clip": 1.0}}
PICTURE = np.zeros((4, 6, 3), np.uint8)


class Wandb(types.ModuleType):
    """Stands for wandb: keeps what its runs were given."""

    class Error(Exception):
        """Stands for all of wandb's own errors."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.calls, self.refuse = [], [], ""
        self.Image = lambda picture: ("image", picture.shape)

    def init(self, **how):
        if self.refuse:
            raise self.Error(self.refuse)
        self.started.append(how)
        return self

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


@pytest.fixture
def wandb(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    return sys.modules["wandb"]


def report(folder, **options):
    options = {"total_steps": 9, "tensorboard": False, "wandb": CONFIG, **options}
    return logger.Report(folder, printer=lambda line: None, **options)


def test_the_id_lies_in_a_remote_folder_before_the_first_step(wandb, tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "is_remote", lambda path: True)
    made = report(tmp_path / "bucket")
    kept = (tmp_path / "bucket" / log_writers.WANDB_RUN).read_text().strip()
    assert kept == wandb.started[0]["id"]
    made.close()


def test_numbers_and_pictures_arrive_and_a_restart_goes_on_with_the_run(wandb, tmp_path):
    made = report(tmp_path / "student")
    made.scalars(1, {"loss/total": np.float32(0.5), "odd": float("nan")})
    made.images(1, {"labelled": PICTURE})
    made.close()
    (started,) = wandb.started
    assert wandb.calls[1:] == [(1, {"labelled": ("image", (4, 6, 3))}), "finish"]
    assert wandb.calls[0][0] == 1 and str(wandb.calls[0][1]) == "{'loss/total': 0.5, 'odd': nan}"
    assert started["config"] == CONFIG and started["dir"] == str(tmp_path / "student")
    assert (started["project"], started["name"]) == ("depth_anything_jax", "student")
    report(tmp_path / "student", resumed_from=1).close()
    again = wandb.started[1]
    assert again["id"] == started["id"] and again["resume"] == "allow"
    report(tmp_path / "other").close()
    assert wandb.started[2]["id"] != started["id"]
    assert len(logger.read_metrics(tmp_path / "student")) == 1


def test_names_of_the_environment_come_first(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "try 3")
    report(tmp_path).close()
    assert (wandb.started[0]["project"], wandb.started[0]["name"]) == ("theirs", "try 3")


def test_only_one_process_logs_and_only_where_it_is_asked_to(wandb, tmp_path):
    for options in ({"active": False}, {"wandb": None}):
        made = report(tmp_path, **options)
        made.scalars(1, {"loss": 1.0})
        made.images(1, {"labelled": PICTURE})
        made.close()
    assert not wandb.started and not wandb.calls
    assert not (tmp_path / log_writers.WANDB_RUN).exists()


def test_the_run_of_a_bucket_goes_on_too(wandb, tmp_path, monkeypatch):
    """Its id is kept in the bucket; wandb's own files stay on the machine."""
    monkeypatch.setattr(logger, "is_remote", lambda path: True)
    for resumed in (None, 1):
        made = report(tmp_path / "bucket" / "student", resumed_from=resumed)
        made.scalars(1, {"loss": 1.0})
        made.close()
    one, other = wandb.started
    assert one["id"] == other["id"] and one["name"] == "student" and one["dir"] is None


def test_a_start_that_is_refused_says_what_to_do(wandb, tmp_path):
    wandb.refuse = "api_key not configured (no-tty)"
    with pytest.raises(ValueError, match=r"log\.wandb=True: .*no-tty.*WANDB_MODE=offline"):
        report(tmp_path)


@pytest.mark.parametrize("folder", [False, True], ids=["nothing", "the folder that it leaves"])
def test_without_wandb_the_extra_is_named_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    config = tiny_runs.shipped("teacher", "demo", **{"log.wandb": True})
    sizes = config_checks.batch_sizes(config)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb") if folder else None)
    with pytest.raises(ImportError, match=r"^log\.wandb=True needs wandb: pip install '.*\[wandb"):
        config_checks.check(config, sizes, str(tmp_path))
