"""What is said of a program before a machine is rented: its text read, its FLOPs, its bounds."""

import types

import jax
import jax.numpy as jnp
import pytest

from depth_anything_jax import models
from depth_anything_jax.aot import flops, hlo, programs, report, topology
from depth_anything_jax.data import pipeline
from depth_anything_jax.models import depth_anything
from depth_anything_jax.parallel import device_programs, sharding
from depth_anything_jax.training import config_checks
from tests.helpers import collective_rules
from tests.helpers.tiny_runs import SIZE, TINY, shipped

TEXT = """\
HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[4,8,8])) -> (s32[], f32[4,8,8]) {
  %p = (s32[], f32[4,8,8]{2,1,0:T(8,128)}) parameter(0)
  %x = f32[4,8,8]{2,1,0} get-tuple-element(%p), index=1
  %slice.1 = f32[1,8,8]{2,1,0} dynamic-slice(%x, %i), dynamic_slice_sizes={1,8,8}
  %all-gather.1 = bf16[8,16]{1,0} all-gather(%slice.1), channel_id=5, replica_groups=mesh['a'=1,'b'=4], device_ids=([2,2]T(1,0)) {'b'}, dimensions={1}, metadata={op_name="jit(step)/gathered"}
  ROOT %t = (s32[], f32[4,8,8]) tuple(%i, %x)
}

%cond (q: (s32[], f32[4,8,8])) -> pred[] {
  %q = (s32[], f32[4,8,8]) parameter(0)
  %n = s32[] constant(12)
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}

%all-reduce-scatter (input: f32[8,16]) -> f32[8,4] {
  %input = f32[8,16] parameter(0)
  %all-reduce.7 = f32[8,16]{1,0} all-reduce(%input), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %piece = f32[8,4]{1,0} dynamic-slice(%all-reduce.7, %zero, %k), dynamic_slice_sizes={8,4}
}

%reads_a_slice (a: f32[4,8,8], b: s32[]) -> f32[8,8] {
  %a = f32[4,8,8] parameter(0)
  %b = s32[] parameter(1)
  ROOT %layer = f32[1,8,8] dynamic-slice(%a, %b, %z, %z), dynamic_slice_sizes={1,8,8}
}

%all-reduce-scatter.2 (one: f32[8,16], two: f32[8,8]) -> (f32[2,16], f32[2,8]) {
  %one = f32[8,16] parameter(0)
  %two = f32[8,8] parameter(1)
  %all-reduce.8 = (f32[8,16]{1,0}, f32[8,8]{1,0}) all-reduce(%one, %two), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %get.1 = f32[8,16] get-tuple-element(%all-reduce.8), index=0
  %piece.1 = f32[2,16]{1,0} dynamic-slice(%get.1, %k, %zero), dynamic_slice_sizes={2,16}
  %get.2 = f32[8,8] get-tuple-element(%all-reduce.8), index=1
  %piece.2 = f32[2,8]{1,0} dynamic-slice(%get.2, %k, %zero), dynamic_slice_sizes={2,8}
  ROOT %both = (f32[2,16], f32[2,8]) tuple(%piece.1, %piece.2)
}

%begins (part: bf16[2,8]) -> bf16[8,8] {
  %part = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,8]{1,0} all-gather(%part), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="7"}
}

%ends (part.1: bf16[2,8]) -> bf16[8,8] {
  %part.1 = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.3 = bf16[8,8]{1,0} all-gather(%part.1), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="7"}
}

ENTRY %main (x: f32[4,8,8]) -> f32[8,4] {
  %x.1 = f32[4,8,8]{2,1,0} parameter(0)
  %tuple = (s32[], f32[4,8,8]) tuple(%c, %x.1)
  %while.1 = (s32[], f32[4,8,8]) while(%tuple), condition=%cond, body=%body
  %all-reduce.2 = (f32[64], f32[]) all-reduce(%g, %h), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
  %fusion.1 = f32[8,4]{1,0} fusion(%g2), kind=kCustom, calls=%all-reduce-scatter
  %fusion.2 = f32[8,8]{1,0} fusion(%x.1, %c), kind=kLoop, calls=%reads_a_slice
  %fusion.3 = (f32[2,16]{1,0}, f32[2,8]{1,0}) fusion(%g3, %g4), kind=kCustom, calls=%all-reduce-scatter.2
  %copy-start.1 = (f32[4,8,8]{2,1,0:S(1)}, f32[4,8,8]{2,1,0}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done.1 = f32[4,8,8]{2,1,0:S(1)} copy-done(%copy-start.1)
  %add.1 = f32[4,8,8]{2,1,0:S(1)} add(%copy-done.1, %copy-done.1)
  %slice-start.1 = ((f32[4,8,8]{2,1,0}), f32[1,8,8]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%x.1), slice={[0:1], [0:8], [0:8]}
  %room.1 = f32[4,8,8]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %begins.1 = f32[8,8]{1,0:S(1)} fusion(%x.1), kind=kLoop, calls=%begins
  %ends.1 = f32[8,8]{1,0:S(1)} fusion(%x.1), kind=kLoop, calls=%ends
  %reduce-scatter-start.1 = ((f32[64]{0}), (f32[16]{0})) reduce-scatter-start(%g5), channel_id=7, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %copy.1 = f32[8,4]{1,0} copy(%fusion.1)
}
"""  # noqa: E501


def test_collectives_of_a_text():
    found = hlo.Program(TEXT, 8).collectives()
    said = sorted((c.kind, c.arrays[0], c.size, c.group, c.times) for c in found)
    assert said == [
        ("all-gather", ("bf16", (8, 8)), 128, 4, 1),  # two fusions are one chain
        ("all-gather", ("bf16", (8, 16)), 256, 4, 12),  # the loop runs twelve times
        ("all-reduce", ("f32", (64,)), 260, 4, 1),
        ("reduce-scatter", ("f32", (2, 16)), 192, 4, 1),  # two arrays, on the channel of another
        ("reduce-scatter", ("f32", (8, 4)), 128, 4, 1),
        ("reduce-scatter", ("f32", (16,)), 64, 4, 1),  # what it makes, not what it reads
    ]
    assert [c.source for c in found if c.times == 12] == ["jit(step)/gathered"]
    assert [report.sent(c) for c in sorted(found)] == [96, 192, 390, 576, 384, 192]


def test_bytes_of_a_text():
    """Slices count, not the stacks that they come from, and of what stays on the chip nothing."""
    loop = 12 * (256 + 256 + 256 + 256)  # a slice read and written; read, gathered
    entry = 260 + 128 + (256 + 256) + 2 * 128  # operands that the text does not define are nothing
    entry += 192  # the second reduce-scatter
    entry += 1024 + 256  # carried onto the chip: the array, a slice; reading them there is free
    entry += 2 * 1024  # the chain reads its operand twice
    entry += 64  # the third reduce-scatter
    assert hlo.Program(TEXT, 8).bytes_moved() == loop + entry


def test_flops_are_the_formula():
    """12 d² + 2 n d products a token and block of ViT-S, and its patches."""
    n, d, depth = 1370, 384, 12
    encoder = depth * (24 * n * d * d + 4 * n * n * d) + 2 * 1369 * 588 * d
    assert flops.of_image(models.build_encoder("vits"), 518, 518) == encoder
    scanned = flops.of_image(models.build_encoder("vits", remat="full"), 518, 518)
    assert scanned == encoder == flops.of_image(models.build_encoder("vits", scan=False), 518, 518)
    assert flops.of_image(models.build("vits"), 518, 518) > 1.2 * encoder  # beside it, the decoder

    def convolution(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    traced = jax.make_jaxpr(convolution)(jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5)))
    assert flops.count(traced.jaxpr) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)


def test_bounds_and_what_fits():
    chip = topology.CHIPS["v5e"]
    gather = hlo.Collective("all-gather", [("bf16", (1,))], 8 * 10**9, 4, 2, "")
    one = report.Report(
        2**30, 2**31, 3 * 2**30, 2**20, 197e12, 150e12, int(819e9 / 2), [gather], 100.0
    )
    bounds = {"arithmetic": 1.0, "memory": 0.5, "links": 2 * 6e9 / 200e9}
    assert one.bounds(chip) == pytest.approx(bounds)
    assert one.bound(chip) == 1.0
    said = "\n".join(report.lines(one, chip))
    assert "3.00 of 15.75 GiB: fits" in said and "at least 1000.0 ms a step" in said
    large = report.Report(2**34, 0, 2**34, 0, 1.0, 1.0, 1, [], 1.0)
    assert "does not fit" in report.lines(large, chip)[0]
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (400.00G) exceeds available HBM (15.75G)."
    )
    assert "400.00G" in report.memory_error(error)
    assert report.memory_error(RuntimeError("INTERNAL: another")) is None


@pytest.mark.parametrize("name", ["v5e:4", "v7:2x2", "v5p:2x2", "v5e:0x2", "v5e"])
def test_slices_that_there_are_not(name):
    with pytest.raises(ValueError, match="topology"):
        topology.describe(name)
    with pytest.raises(ValueError, match="host=3"):
        topology.describe("v5e:2x4", host=3)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(depth_anything.VARIANTS, "tiny", TINY)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_shapes_are_those_of_a_real_batch(tiny):
    fields = {"data.unlabelled": (f"scenes:B?count=4&size={SIZE}",), "batch_size": 24}
    c = shipped("student", "vits", teacher="online", **fields)
    mesh = sharding.make_mesh()
    batches = pipeline.train_batches(
        config_checks.data_config(c),
        labelled_batch=8, unlabelled_batch=16, size=SIZE, seed=0, start_step=0,
        process_index=0, process_count=1, on_failure=print, patch_size=14,
    )  # fmt: skip
    real = sharding.put_batch(next(batches), mesh)
    batches.close()
    abstract = programs.training_batch(c, mesh)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for ours, theirs in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (ours.shape, ours.dtype, ours.sharding) == (
            theirs.shape, theirs.dtype, theirs.sharding,
        )  # fmt: skip


@pytest.mark.parametrize("fsdp", [1, 4])
def test_who_talks_to_whom_on_eight_cpus(fsdp, tiny):
    """The rules that hold on every platform; those of TPUs alone are in test_topologies."""
    c = shipped("student", "vits", teacher="files", batch_size=24, **{"mesh.fsdp": fsdp})
    mesh = sharding.make_mesh(-1, fsdp)
    training = programs.Training(c, mesh)
    program = hlo.Program(training.step().compile().as_text(), 8)
    if fsdp == 1:
        collective_rules.check_data_parallel(program)
    else:
        collective_rules.check_fsdp(program, training.plan.params, fsdp)


def test_effort():
    assert device_programs.options(0.0) is None
    assert device_programs.options(-1) == {"exec_time_optimization_effort": -1.0}
    assert device_programs.options(-1, "cpu") is None
    with pytest.raises(ValueError, match="compile_effort=2"):
        device_programs.options(2)


def test_a_process_holds_rows_that_follow_each_other():
    """In the order that jax.make_mesh gives v5e:4x4; test_topologies has the mesh itself."""
    torus = [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0]
    chips = [types.SimpleNamespace(id=i, process_index=p) for i, p in enumerate(torus)]
    ordered = sharding.by_process(chips)
    assert [c.process_index for c in ordered] == sorted(torus)
    assert [c.id for c in ordered][:4] == [0, 1, 6, 15]  # neighbours stay so within a process
