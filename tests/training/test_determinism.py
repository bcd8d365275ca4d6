"""The same run on other devices, workers, microbatches and processes: what is equal, and how far.

Whole runs of train.py are compared by what --audit writes down of each step. docs/determinism.md
holds the numbers that `pytest -s` prints here.
"""

import json
import os
import pathlib
import runpy
import shutil
from typing import Any, NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from depth_anything_jax import configs, train
from depth_anything_jax.data import registry
from depth_anything_jax.inference import label_dataset
from depth_anything_jax.models.dtypes import compute_dtype
from depth_anything_jax.parallel import sharding
from depth_anything_jax.training import audit_sheets, init, step
from depth_anything_jax.utils.encoders import DINOV2
from tests.helpers.run_comparison import (
    Story,
    check,
    check_content,
    deviations,
    x64_in_all_threads,
)
from tests.helpers.several_processes import start
from tests.helpers.train_float64 import widen

SIZE, STEPS = 28, 3
FIELDS = {
    "input_size": SIZE, "total_steps": STEPS, "optim.warmup": 1, "init_from": "",
    # random networks, and a margin amid their cosines: it keeps some tokens and drops others
    "loss.feat_margin": 0.0, "perturb.cutmix.p": 0.8,
    "checkpoint.every": 1, "checkpoint.keep_last": STEPS,
    "log.every": 1, "log.images": 0, "log.tensorboard": False,
}  # fmt: skip

# Where rounding moves a median to another pixel, the gradient jumps. From random weights and at the
# demo's rates that shows in float32's losses after two updates: docs/determinism.md, "What grows".
RATES = {"optim.encoder_lr": 2e-5, "optim.decoder_lr": 2e-3}
SMALL_RATES = {"optim.encoder_lr": 1e-6, "optim.decoder_lr": 1e-5}


class Setting(NamedTuple):
    """How a run is computed. fsdp: over how many of the devices parameters are split."""

    devices: int = 1
    accumulation: int = 1
    workers: int = 0
    fsdp: int = 1
    processes: int = 1
    float64: bool = False

    def fields(self, batch_size, data) -> dict[str, Any]:
        return FIELDS | (RATES if self.float64 else SMALL_RATES) | {
            "batch_size": batch_size, "accumulation": self.accumulation,
            "data.labels": (f"{data}/labels",), "data.workers": self.workers,
            "data.labelled": (f"rgbd:{data}/pairs.json?fmt=nyu",),
            "data.unlabelled": (f"folder:{data}/photos",),
            "mesh.fsdp": self.fsdp, "dtype": "float64" if self.float64 else "float32",
        }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """RGB-D pairs, each with a hole, photos, and their pseudo labels by a teacher that takes
    brightness for nearness."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    rng, pairs = np.random.default_rng(0), []

    def write(name, *shape, dtype=np.uint8, low=0, high=256, hole=slice(0)):
        x = cv2.resize(rng.integers(low, high, shape, dtype), (40, 34))
        x[hole, 5:30] = 0
        assert cv2.imwrite(str(folder / name), x)
        return name

    for i in range(20):
        depth = dict(dtype=np.uint16, low=500, high=9000, hole=slice(i, i + 9))
        pairs.append({
            "rgb": write(f"{i}.png", 6, 7, 3), "depth": write(f"{i}_depth.png", 4, 5, **depth)
        })  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(pairs))
    for i in range(40):
        write(f"photos/{i}.png", 6, 7, 3)
    label_dataset.label_source(
        lambda images: images.mean(-1), registry.make(registry.parse(f"folder:{folder}/photos")),
        folder / "labels", teacher={"fingerprint": "brightness"}, size=SIZE, tell=lambda line: None,
    )  # fmt: skip
    return folder


def from_its_first_step(workdir, to):
    """A workdir that stopped after step 1."""
    shutil.copytree(workdir / "checkpoints" / "1", to / "checkpoints" / "1")
    return to


# In this process, around networks that compile in no time


class Features(NamedTuple):
    tokens: jax.Array
    pixels: jax.Array


class Encoder(nn.Module):
    """Single pixels, and their means over patches as tokens."""

    dtype: Any
    attention: str = "none"
    spec = DINOV2

    @nn.compact
    def __call__(self, images):
        x = jnp.tanh(nn.Dense(8, dtype=self.dtype, param_dtype=self.dtype, name="colours")(images))
        b, h, w, dim = x.shape
        tokens = x.reshape(b, h // 14, 14, w // 14, 14, dim).mean((2, 4)).reshape(b, -1, dim)
        return Features(tokens, x)


class Decoder(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        how = dict(dtype=self.dtype, param_dtype=self.dtype)
        x = jnp.tanh(nn.Dense(8, name="hidden", **how)(x))
        return nn.Dense(1, name="out", use_bias=False, **how)(x)[..., 0]


class Pixels(nn.Module):
    head = "relative"
    spec = DINOV2
    encoder: Encoder
    decoder: Decoder

    def __call__(self, images, return_features=False):
        features = self.encoder(images)
        depth = self.decoder(features.pixels)
        return (depth, features) if return_features else depth


def pixel_networks(config, mesh):
    """Stands for init.networks."""
    dtype = compute_dtype(config.dtype)
    encoder = Encoder(dtype)
    params = encoder.init(jax.random.key(5), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    frozen = {"encoder": params}
    networks = step.Networks(Pixels(encoder, Decoder(dtype)), encoder)
    placed = jax.device_put(frozen, sharding.tree_shardings(frozen, mesh))
    model = {"version": "v1", "head": "relative", "max_depth": None, "focal": None}
    return networks, placed, {"variant": "demo", "licence_chain": [], **model}


@pytest.fixture
def quick(tmp_path):
    """Programs that run a few times are compiled quickly, and equal ones once."""
    set_ = jax.config.update
    set_("jax_disable_most_optimizations", True)
    set_("jax_compilation_cache_dir", str(tmp_path / "compiled"))
    compilation_cache.reset_cache()
    yield
    set_("jax_disable_most_optimizations", False)
    set_("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


def inside(setting: Setting, workdir, data) -> Story:
    """A run of 32 + 64 images a step."""
    devices, make = jax.devices()[: setting.devices], sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda *a: make(*a, devices=devices))
        patch.setattr(init, "networks", pixel_networks)
        patch.setattr(
            audit_sheets, "sheets", lambda arrays, encoder: {}
        )  # takes longer than the run
        if setting.float64:
            widen(patch.setattr)
        config = runpy.run_path(str(configs.folder() / "student.py"))["get_config"]("demo")
        config.update_from_flattened_dict(setting.fields(96, data))
        with x64_in_all_threads(setting.float64):
            train.train(config, str(workdir), audit_steps=STEPS)
    return Story.read(workdir)


SPREAD = Setting(devices=8, fsdp=2, accumulation=4, workers=2)


def test_a_run_and_its_continuation_are_the_same_everywhere(tmp_path, data, quick):
    one = inside(Setting(), tmp_path / "one", data)
    check_content(one)
    spread = inside(SPREAD, tmp_path / "spread", data)
    check(one, spread, "eight devices in four microbatches, two workers")
    for devices in (1, 2, 4):
        resumed = from_its_first_step(tmp_path / "spread", tmp_path / f"resumed{devices}")
        again = inside(Setting(devices=devices), resumed, data)
        assert sorted(again.steps) == [2, 3]
        check(one, again, f"the same, continued on {devices} devices")
        # closer than BOUNDS, where parameters are the same to begin with: one update's rounding
        assert deviations(spread, again)["losses"] < 1e-6


def test_in_float64_nothing_is_left_of_the_difference(tmp_path, data, quick):
    one = inside(Setting(float64=True), tmp_path / "one", data)
    assert one.params["decoder/out/kernel"].dtype == np.float64
    spread = inside(SPREAD._replace(float64=True, workers=0), tmp_path / "spread", data)
    check(one, spread, "eight devices in four microbatches")


# The program itself, with the demo's networks


def outside(setting: Setting, workdir, data, compiled) -> Story:
    """A run of 8 + 16 images a step, as a user starts it."""
    module = "tests.helpers.train_float64" if setting.float64 else "depth_anything_jax.train"
    command = ["-m", module, "--config=configs/student.py:demo",
               f"--workdir={workdir}", f"--audit={STEPS}"]  # fmt: skip
    command += [f"--config.{k}={v}" for k, v in setting.fields(24, data).items()]
    command += ["--distributed"] if setting.processes > 1 else []
    quickly = "JAX_DISABLE_MOST_OPTIMIZATIONS"  # set it to 0 to see what users see
    environment = {
        quickly: os.environ.get(quickly, "1"),
        "JAX_ENABLE_X64": str(int(setting.float64)),
        "JAX_NUM_CPU_DEVICES": str(setting.devices // setting.processes),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
    }
    runs = start(command, setting.processes, **environment)
    for run in runs:
        out, _ = run.communicate()
        assert run.returncode == 0, out
    return Story.read(workdir)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Equal programs are compiled once."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data, compiled):
    """Setting -> (workdir, story) of a run from the start, done once."""
    found = {}

    def get(setting: Setting) -> tuple[pathlib.Path, Story]:
        if setting not in found:
            workdir = tmp_path_factory.mktemp("run")
            found[setting] = workdir, outside(setting, workdir, data, compiled)
        return found[setting]

    return get


EIGHT = Setting(devices=8, workers=2)
SETTINGS = {
    "8 devices, 2 workers": EIGHT,
    "4 microbatches": Setting(accumulation=4),
    "2 processes of 1 device": Setting(devices=2, processes=2),
    "8 devices, wide": Setting(devices=8, float64=True),
    "4 microbatches, wide": Setting(accumulation=4, float64=True),
    "2 processes, wide": Setting(devices=2, processes=2, float64=True),
    "3 workers": Setting(workers=3),
    "2 devices": Setting(devices=2),
    "8 devices as 4 x 2": Setting(devices=8, fsdp=2),
    "2 processes of 4 devices, 2 workers": Setting(devices=8, processes=2, workers=2),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_gives_the_run_of_one_device(name, runs):
    setting = SETTINGS[name]
    _, one = runs(Setting(float64=setting.float64))
    check_content(one)
    _, other = runs(setting)
    assert sorted(other.steps) == [1, 2, 3]
    only_workers = setting._replace(workers=0) == Setting()
    check(one, other, name, bits=only_workers)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["4 microbatches", "2 processes of 1 device"])
def test_a_checkpoint_of_eight_devices_continues_elsewhere(name, tmp_path, data, compiled, runs):
    workdir = from_its_first_step(runs(EIGHT)[0], tmp_path)
    again = outside(SETTINGS[name], workdir, data, compiled)
    assert sorted(again.steps) == [2, 3]
    check(runs(Setting())[1], again, f"8 devices, then {name}")
