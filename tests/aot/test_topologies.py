"""Every device program compiled for TPU slices, by libtpu, without a TPU; who talks to whom.

`make nightly` brings libtpu; elsewhere: see CONTRIBUTING.md. Networks are tiny, and XLA is asked
for little effort: what is seen is whether it compiles, and the collectives.
"""

import jax
import pytest

from depth_anything_jax import models
from depth_anything_jax.aot import hlo, programs, topology
from depth_anything_jax.checkpoints import pretrained
from depth_anything_jax.models import depth_anything
from depth_anything_jax.parallel import device_programs, sharding
from depth_anything_jax.parallel.device_programs import data_mesh
from tests.helpers import collective_rules
from tests.helpers.tiny_runs import SIZE, TINY, shipped

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

# name, chips of a host: 1, 4, 8 (one host and two) and 16 chips; hosts of 4 and of 8
SLICES = [("v5e:1x1", 1), ("v5e:2x2", 4), ("v5e:2x4", 8), ("v6e:2x4", 4), ("v5p:2x2x4", 4)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(depth_anything.VARIANTS, "tiny", TINY)


def described(name, host):
    try:
        return topology.describe(name, host=host)
    except ImportError as error:
        pytest.skip(str(error))


def compiled(lowered):
    return lowered.compile(compiler_options=device_programs.options(-1.0))


CONFIGS = {
    "teacher": ("teacher", "vitl", {"ema_decay": 0.9, "batch_size": 32}),
    "student": ("student", "vits", {"teacher": "files", "batch_size": 48}),
    "student, records, accumulated": (
        "student", "vits", {"teacher": "records", "batch_size": 96, "accumulation": 2}
    ),
    "student, online": ("student", "vits", {"teacher": "online", "batch_size": 48}),
    "student, V2": ("student", "v2", {"teacher": "records", "batch_size": 32}),
    "metres, sigmoid": ("metric", "demo,head=sigmoid", {"batch_size": 16, "camera.focal": 30.0}),
    "metres, bins": ("metric", "demo,head=bins", {"batch_size": 16, "input_size": (SIZE, 42)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("slice_", "host"), SLICES)
def test_training(slice_, host, name):
    found = described(slice_, host)
    chips = len(found.devices)
    file, variant, fields = CONFIGS[name]
    config = shipped(file, variant, **fields | {"dtype": "auto"})
    assert {d.process_index for d in found.devices} == set(range(-(-chips // host)))
    order = [d.process_index for d in sharding.make_mesh(devices=found.devices).devices.flat]
    assert order == sorted(order)
    for fsdp in {1, min(chips, 4)} if name in ("teacher", "student") else {1}:
        config.mesh.fsdp = fsdp
        mesh = sharding.make_mesh(-1, fsdp, devices=found.devices)
        training = programs.Training(config, mesh, teacher="tiny")
        step = compiled(training.step())
        text = step.as_text()
        assert "tpu_custom_call" in text  # splash is in it
        program, params = hlo.Program(text, chips), training.plan.params
        if chips == 1:
            assert program.collectives() == []
        elif fsdp == 1 and config.accumulation == 1:
            collective_rules.check_data_parallel(program)
        elif fsdp == 1:
            assert collective_rules.gathered(program) == []
        elif fsdp > 1:
            collective_rules.check_fsdp(program, params, fsdp)
        if name in ("teacher", "student"):
            for other in (training.init, training.strips, training.gather, training.audit):
                compiled(other())
        elif "metres" in name:
            compiled(training.strips())


@pytest.mark.parametrize(("slice_", "host"), SLICES)
@pytest.mark.parametrize("head", ["relative", "sigmoid", "bins"])
def test_prediction(slice_, host, head):
    """Labels ask for disparity; scores (of flips, too), pictures and their tiles for what the head
    says: the same program at every batch that is asked for."""
    devices = topology.of_one_host(described(slice_, host))
    assert len(devices) == host
    model = models.build(
        TINY, head=head, max_depth=None if head == "relative" else 10.0, dtype="bfloat16"
    )
    for n in {1, len(devices)}:
        for raw in (False, True):
            made = programs.predict(model, data_mesh(devices[:n]), SIZE, 42, batch=n, raw=raw)
            assert "tpu_custom_call" in compiled(made).as_text()


def test_a_program_for_one_device():
    """As checkpoints/pretrained.py fills what a file lacks."""
    mesh = data_mesh(topology.of_one_host(described("v5e:2x4", 8))[:1])
    names = ["encoder/cls_token", "decoder/output_conv2_2/bias"]
    program = pretrained.fill_program(names, mesh, "tiny", "flax", "all", None)
    compiled(program.lower(jax.random.key(0)))


def step_of(config, name, host, fsdp=1):
    found = described(name, host)
    mesh = sharding.make_mesh(-1, fsdp, devices=found.devices)
    training = programs.Training(config, mesh)
    return hlo.Program(compiled(training.step()).as_text(), mesh.size), training.plan.params


def test_gradients_are_scattered_and_added_up_in_float32():
    """The shipped student; tiny kernels are treated otherwise."""
    config = shipped("student", "vits", **{"model.variant": "vits", "batch_size": 24})
    config.input_size = 518
    program, params = step_of(config, "v5e:2x4", 8, fsdp=4)
    collective_rules.check_fsdp(program, params, 4)
    collective_rules.check_scattered(program, params, 4)


@pytest.fixture
def student():
    return shipped("student", "vits", teacher="files", batch_size=48)


def test_a_partitioner_left_to_itself_is_seen(monkeypatch, student):
    for module, name in (
        ("models.vit", "split_batch"),
        ("models.products", "whole_kernel"),
        ("models.products", "split_kernel"),
    ):
        monkeypatch.setattr(f"depth_anything_jax.{module}.{name}", lambda x, *_, **__: x)
    program, params = step_of(student, "v5e:2x4", 8, fsdp=4)
    with pytest.raises(AssertionError, match="gathered beside kernels"):
        collective_rules.check_fsdp(program, params, 4)


def test_a_kernel_that_lies_along_another_axis_is_seen(monkeypatch, student):
    def smallest(shape, size):
        axes = [a for a, n in enumerate(shape) if n % size == 0] if size > 1 else []
        least = min(axes, key=lambda a: shape[a], default=None)
        return tuple("fsdp" if a == least else None for a in range(len(shape)))

    monkeypatch.setattr("depth_anything_jax.parallel.sharding.kernel_spec", smallest)
    program, params = step_of(student, "v5e:2x4", 8, fsdp=4)
    with pytest.raises(AssertionError, match="gathered beside kernels"):
        collective_rules.check_fsdp(program, params, 4)


def test_a_batch_that_is_not_split_is_seen(monkeypatch, student):
    def whole(x, axis=0):
        if jax.sharding.get_abstract_mesh().empty:  # shapes alone
            return x
        return jax.lax.with_sharding_constraint(x, jax.P())

    monkeypatch.setattr("depth_anything_jax.models.vit.split_batch", whole)
    program, _ = step_of(student, "v5e:2x4", 8)
    with pytest.raises(AssertionError):
        collective_rules.check_data_parallel(program)
