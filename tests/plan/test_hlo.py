"""Counting collectives: in programs that XLA compiles here, where we know what they send, and in the TPU's spelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from extra_jax.errors import ExtraError
from extra_jax.plan.hlo import collectives

SIZE, STEPS = 1024, 5


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 4), ("outer", "inner"), axis_types=(AxisType.Auto,) * 2)


def compiled(body, *shapes: tuple[int, ...]) -> str:
    """Text of a program that ``body`` is, on each of 8 devices, with a count that is data as last argument."""
    specs = (PartitionSpec(),) * (len(shapes) + 1)
    program = jax.shard_map(body, mesh=mesh(), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(program).lower(*arguments, jax.ShapeDtypeStruct((), jnp.int32)).compile().as_text()


def test_a_sum_in_a_scan_runs_as_often_as_the_scan_and_in_a_loop_over_data_as_often_as_we_say() -> None:
    def body(x: jax.Array, count: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.sin(jax.lax.psum(x, "inner")), None

        def outer(_: jax.Array, x: jax.Array) -> jax.Array:
            return jax.lax.psum(jax.lax.scan(step, x, None, length=STEPS)[0], ("outer", "inner"))

        return jax.lax.fori_loop(0, count, outer, x)

    text = compiled(body, (SIZE,))
    found = {one.bytes: one for one in collectives(text, (3,), devices=8)}
    over_4, over_8 = found[2 * 4 * SIZE * 3 / 4], found[2 * 4 * SIZE * 7 / 8]
    assert (over_4.kind, over_4.runs, over_4.loops) == ("all-reduce", 3 * STEPS, 1)
    assert (over_8.kind, over_8.runs, over_8.loops) == ("all-reduce", 3, 1)
    assert len(found) == 2
    assert {one.runs for one in collectives(text, (), devices=8)} == {STEPS, 1}


@pytest.mark.parametrize(
    ("operation", "kind", "sent"),
    [
        (lambda x: jax.lax.all_gather(x, "inner").sum(0), "all-gather", 4 * SIZE * 3),
        (lambda x: jax.lax.psum_scatter(x, "inner", tiled=True), "reduce-scatter", 4 * SIZE / 4 * 3),
        (lambda x: jax.lax.all_to_all(x.reshape(4, -1), "inner", 0, 0), "all-to-all", 4 * SIZE * 3 / 4),
        (lambda x: jax.lax.ppermute(x, "inner", [(0, 1), (1, 2), (2, 3), (3, 0)]), "collective-permute", 4 * SIZE),
    ],
)
def test_each_kind_sends_what_a_ring_sends(operation, kind: str, sent: float) -> None:
    (one,) = collectives(compiled(lambda x, count: operation(x), (SIZE,)), devices=8)
    assert (one.kind, one.bytes, one.runs, one.loops) == (kind, sent, 1, 0)


@pytest.mark.parametrize(("axis", "crosses"), [("outer", True), ("inner", False)])
def test_what_crosses_slices_is_told_by_its_groups(axis: str, crosses: bool) -> None:
    text = compiled(lambda x, count: jax.lax.psum(x, axis), (SIZE,))
    (one,) = collectives(text, devices=8, slices=2)
    assert one.crosses_slices == crosses
    assert one.bytes == 2 * 4 * SIZE * (1 / 2 if crosses else 3 / 4)


GROUPS = {
    "replica_groups={{0,4},{1,5},{2,6},{3,7}}": ([0, 4], True),
    "replica_groups=[4,2]<=[2,4]T(1,0)": ([0, 4], True),
    "replica_groups=[2,4]<=[8]": ([0, 1, 2, 3], False),
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}": ([0, 4], True),
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}": ([0, 1, 2, 3], False),
    "replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}": ([0, 1, 2, 3], False),
    "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}": ([0, 3], False),
}


@pytest.mark.parametrize("spelling", GROUPS)
def test_groups_are_read_in_every_spelling_of_the_compiler(spelling: str) -> None:
    operation = "collective-permute" if "pairs" in spelling else "all-gather"
    text = f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  ROOT %x = f32[8]{{0}} {operation}(%p), {spelling}, dims={{0}}\n}}"
    (one,) = collectives(text, devices=8, slices=2)
    group, crosses = GROUPS[spelling]
    assert one.crosses_slices == crosses
    assert one.bytes == (32 if "pairs" in spelling else 32 * (len(group) - 1) / len(group))


TPU = """\
%start (a: bf16[64]) -> (bf16[64], bf16[512]) {
  %gather.1 = bf16[512]{0:T(512)} all-gather(%a), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}
  ROOT %custom.1 = (bf16[64], bf16[512]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}
%async_collective_fusion.7 (a: bf16[64]) -> bf16[512] {
  %gather.2 = bf16[512]{0:T(512)} all-gather(%a), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}
  ROOT %tuple.2 = (bf16[512]) tuple(%gather.2)
}
%done (a: bf16[64]) -> bf16[512] {
  %gather.3 = bf16[512]{0:T(512)} all-gather(%a), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}
  ROOT %custom.3 = bf16[512] custom-call(%gather.3), custom_call_target="AsyncCollectiveDone"
}
%all-reduce-scatter.1 (a: f32[512]) -> f32[64] {
  %reduce.1 = f32[512]{0:T(512)} all-reduce(%a), channel_id=2, replica_groups=mesh['axis_0'=8] {'axis_0'}
  ROOT %slice.1 = f32[64] dynamic-slice(%reduce.1), dynamic_slice_sizes={64}
}
%condition (p: (u32[], bf16[64])) -> pred[] {
  %constant.1 = u32[]{:T(128)} constant(8)
  %counter.1 = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less.1 = pred[]{:T(512)} compare(%counter.1, %constant.1), direction=LT
}
%body (p: (u32[], bf16[64])) -> (u32[], bf16[64]) {
  %constant.2 = u32[]{:T(128)} constant(2)
  %counter.2 = u32[]{:T(128)} get-tuple-element(%p), index=0
  %next.2 = u32[]{:T(128)} add(%counter.2, %constant.2)
  %kernel.2 = bf16[64] custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"a": {
"b": 1
}}, metadata={op_name="attention"}
  %permute.2 = (bf16[64], bf16[64], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %tuple.4 = (u32[]{:T(128)}, bf16[64]{0:T(512)}) tuple(%next.2, %moved)
}
ENTRY %main (a: bf16[64]) -> bf16[512] {
  %f1 = (bf16[64], bf16[512]) fusion(%a), kind=kCustom, calls=%start
  %f2 = bf16[512] fusion(%f1), kind=kOutput, calls=%async_collective_fusion.7
  %f3 = bf16[512] fusion(%f2), kind=kCustom, calls=%done
  %f4 = f32[64] fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %w = (u32[], bf16[64]) while(%t), condition=%condition, body=%body
}
"""


def test_the_spelling_of_the_tpu_compiler() -> None:
    """An asynchronous gather is written three times and runs once; a reduce-scatter is a fused all-reduce and slice; a
    collective matmul does two parts in one trip."""
    found = {one.kind: one for one in collectives(TPU, devices=8)}
    assert set(found) == {"all-gather", "reduce-scatter", "collective-permute"}
    assert (found["all-gather"].runs, found["all-gather"].bytes) == (1, 2 * 512 * 7 / 8)
    assert (found["reduce-scatter"].runs, found["reduce-scatter"].bytes) == (1, 4 * 512 * 7 / 8)
    assert (found["collective-permute"].runs, found["collective-permute"].bytes) == (4, 2 * 64)
    assert found["collective-permute"].loops == 0


def sent_between_slices(kind: str, target: str, operand: str) -> str:
    """One program of several slices as libtpu 0.0.51 writes it: a send to the host, inside a loop that has lost its
    first trip, and a sum over all four devices of the slice beside it."""
    runtime = 'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"'
    attributes = (
        f'{runtime},_xla_host_transfer_rendezvous="psum.7_0",'
        f'_xla_megascale_reduce_operation="SUM",_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}'
    )
    return f"""\
HloModule jit_f, is_scheduled=true, entry_computation_layout={{()->f32[8]{{0}}}}, num_partitions=4
%condition (p.1: (s32[], f32[8])) -> pred[] {{
  %constant.1 = s32[]{{:T(128)}} constant(4)
  %p.1 = (s32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  ROOT %lt.1 = pred[]{{:T(512)}} compare(%p.1#0, %constant.1), direction=LT
}}
%body (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p.2 = (s32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %constant.2 = s32[]{{:T(128)}} constant(1)
  %after-all = token[] after-all(), frontend_attributes={{MegascaleRendezvousKeyName="psum.7_0"}}
  %send = ({operand}{{0:T(1024)}}, u32[]{{:S(2)}}, token[]) send(%p.2#1, %after-all), channel_id=2, {attributes}
  %recv = ({operand}{{0:T(1024)}}, u32[]{{:S(2)}}, token[]) recv(%after-all), channel_id=1, {attributes}
  %send-done = token[] send-done(%send), channel_id=2, {runtime}}}
  %all-reduce = f32[8]{{0}} all-reduce(%p.2#1), channel_id=3, use_global_device_ids=true
  %add.1 = s32[]{{:T(128)}} add(%p.2#0, %constant.2)
  ROOT %tuple.1 = (s32[]{{:T(128)}}, f32[8]{{0}}) tuple(%add.1, /*index=1*/%all-reduce)
}}
ENTRY %main () -> f32[8] {{
  %constant.3 = s32[]{{:T(128)}} constant(1)
  %copy.3 = s32[]{{:T(128)}} copy(%constant.3)
  %tuple.3 = (s32[]{{:T(128)}}, f32[8]{{0}}) tuple(%copy.3, %x)
  %while.3 = (s32[]{{:T(128)}}, f32[8]{{0}}) while(%tuple.3), condition=%condition, body=%body
  ROOT %out = f32[8]{{0}} copy(%while.3#1)
}}
"""


@pytest.mark.parametrize(
    ("transfer", "target", "kind", "share"),
    [
        ("ALL_REDUCE", '"{1,2}x{0:3}"', "all-reduce", 1),
        ("ALL_REDUCE", '"{1,2,3,4}x{0:3}"', "all-reduce", 3 / 2),
        ("ALL_REDUCE", "{{100000,200000},{100001,200001},{300000,400000},{300001,400001}}", "all-reduce", 1),
        ("ALL_GATHER", '"{1,2}x{0:3}"', "all-gather", 1),
        ("ALL_GATHER", '"{1,2,3,4}x{0:3}"', "all-gather", 3),
        ("REDUCE_SCATTER", '"{1,2}x{0:3}"', "reduce-scatter", 1 / 2),
        ("ALL_TO_ALL", "{{100000,100001,200000,200001},{100003,100002,200003,200002}}", "all-to-all", 1 / 2),
        ("ONE_TO_ONE", "{{100000->200000},{200000->100000}}", "collective-permute", 1),
    ],
)
def test_what_crosses_slices_is_a_send_to_the_host(transfer: str, target: str, kind: str, share: float) -> None:
    text = sent_between_slices(transfer, target, "f32[1024]")
    across, inside = sorted(collectives(text, devices=8, slices=2), key=lambda one: not one.crosses_slices)
    assert (across.crosses_slices, across.kind, across.shape, across.bytes) == (True, kind, "f32[1024]", share * 4096)
    assert (across.runs, across.loops) == (3, 0), "4 trips of which the first was peeled off"
    assert (inside.crosses_slices, inside.bytes, inside.runs) == (False, 2 * 32 * 3 / 4, 3), "of the slice's 4 devices"


@pytest.mark.parametrize("spelling", [("SOMETHING_NEW", '"{1,2}x{0:3}"'), ("", "")])
def test_a_transfer_between_slices_that_is_not_understood_is_no_zero(spelling: tuple[str, str]) -> None:
    with pytest.raises(ExtraError, match=r"a transfer between slices that extra_jax/plan/hlo\.py cannot read"):
        collectives(sent_between_slices(*spelling, "f32[1024]"), devices=8, slices=2)
