"""Every device program lowered for CUDA under eight devices, with cuDNN's attention, without a GPU.

Lowered, not compiled: XLA's compiler for GPUs needs one. cuDNN's attention brings a partitioner of
its own, which splits the batch; it stands in the program as CustomSPMDPartitioning.
"""

import re

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from depth_anything_jax import models
from depth_anything_jax.aot import programs
from depth_anything_jax.losses import relative
from depth_anything_jax.models import attention, depth_anything, dpt, resize
from depth_anything_jax.parallel import placement, sharding
from depth_anything_jax.parallel.device_programs import data_mesh
from tests.helpers.tiny_runs import TINY, shipped

SIZE = 252  # an odd number of tokens, 325, and 1370 at 518 an even one


@pytest.fixture(autouse=True)
def as_on_gpus(monkeypatch):
    """ "auto" is what it is on a GPU; the version of cuDNN is asked for while tracing."""
    monkeypatch.setitem(depth_anything.VARIANTS, "tiny", TINY)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(placement, "platform", lambda: "gpu")
    for module in (dpt, relative, resize):  # who has the function by its name
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    assert attention.placement is placement


def called(lowered):
    return set(re.findall(r'custom_call\s+@"?([^\s"(]+)', lowered.as_text()))


@pytest.mark.parametrize(
    ("name", "variant", "fsdp", "fields"),
    [
        ("teacher", "vitl", 4, {"batch_size": 16, "ema_decay": 0.9, "input_size": 518}),
        ("student", "vits", 1, {"batch_size": 48, "teacher": "online", "accumulation": 2}),
        ("student", "v2", 1, {"batch_size": 16, "teacher": "records"}),
        ("metric", "demo,head=sigmoid", 1, {"batch_size": 16}),
        ("metric", "demo,head=bins", 1, {"batch_size": 16, "input_size": (SIZE, SIZE)}),
    ],
)
def test_training(name, variant, fsdp, fields):
    more = {"dtype": "bfloat16", "mesh.fsdp": fsdp, "input_size": SIZE}
    config = shipped(name, variant, **more | fields)
    mesh = sharding.make_mesh(-1, fsdp)
    made = programs.Training(config, mesh, teacher="tiny", platform="cuda")
    assert "CustomSPMDPartitioning" in called(made.step())
    for other in (made.init, made.strips, made.gather):
        other()
    if variant == "v2":
        assert "CustomSPMDPartitioning" in called(made.audit())


@pytest.mark.parametrize("devices", [1, 8])
def test_prediction(devices):
    model = models.build(TINY, dtype="bfloat16")
    mesh = data_mesh(jax.devices()[:devices])
    for raw in (False, True):
        made = programs.predict(model, mesh, SIZE, SIZE, batch=devices, raw=raw, platform="cuda")
        assert called(made) & {"CustomSPMDPartitioning", "__cudnn$fmhaSoftmax"}, called(made)
