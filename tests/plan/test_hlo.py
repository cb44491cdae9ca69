"""Parsing a compiled program's text, in the format of the TPU compiler."""

import pytest

from cpnet_jax.plan import cycles
from cpnet_jax.plan.hlo import Program

CYCLES = 'backend_config={"flag_configs":[],"window_config":{"estimated_cycles":"%d","iteration_bounds":["1"]}}'

PROGRAM = f"""HloModule jit_train_step, is_scheduled=true, entry_computation_layout={{(f32[32]{{0}})->f32[32]{{0}}}}

%fused_computation.1 (param_0: f32[32]) -> f32[32] {{
  %param_0 = f32[32]{{0:T(128)S(1)}} parameter(0)
  ROOT %multiply.1 = f32[32]{{0:T(128)S(1)}} multiply(%param_0, %param_0), {CYCLES % 10**9}
}}

%add.1 (x: f32[], y: f32[]) -> f32[] {{
  ROOT %add.2 = f32[]{{:T(128)}} add(%x, %y)
}}

%region_175.181_spmd (wide.param.18: (s32[], f32[32], /*index=2*/f32[3])) -> pred[] {{
  %constant.2464 = s32[]{{:T(128)}} constant(5)
  %wide.param.18 = (s32[]{{:T(128)}}, f32[32]{{0:T(128)}}, /*index=2*/f32[3]{{0:T(128)}}) parameter(0)
  %get-tuple-element.9294 = s32[]{{:T(128)}} get-tuple-element(%wide.param.18), index=0
  ROOT %lt.85 = pred[]{{:T(512)}} compare(%get-tuple-element.9294, %constant.2464), direction=LT
}}

%region_0.180_spmd.sunk (param: (s32[], f32[32])) -> (s32[], f32[32]) {{
  %fusion.2 = f32[32]{{0:T(128)}} fusion(%param), kind=kLoop, calls=%fused_computation.1, \
metadata={{op_name="jit(train_step)/while/body/jvp(CPNet)/bn/add"}}, {CYCLES % 100}
  %all-reduce.2 = f32[32]{{0:T(128)S(1)}} all-reduce(%fusion.2), channel_id=3, \
replica_groups=mesh['axis_0'=4] {{'axis_0'}}, to_apply=%add.1, \
metadata={{op_name="jit(train_step)/while/body/jvp(CPNet)/bn/reduce_sum" stack_frame_id=12}}
  ROOT %tuple.3 = (s32[]{{:T(128)}}, f32[32]{{0:T(128)}}) tuple(%i, %all-reduce.2)
}}

%gather (p: f32[8,4]) -> f32[32,4] {{
  ROOT %all-gather.7 = f32[32,4]{{1,0:T(8,128)}} all-gather(%p), channel_id=9, dimensions={{0}}
}}

ENTRY %main.274_spmd (param.21: f32[32]) -> f32[32] {{
  %param.21 = f32[32]{{0:T(128)}} parameter(0)
  %fusion.1 = f32[32]{{0:T(128)}} fusion(%param.21), kind=kLoop, calls=%fused_computation.1, {CYCLES % 3}
  %fusion.9 = f32[32]{{0:T(128)}} fusion(%param.21), kind=kLoop, calls=%fused_computation.1, {CYCLES % (2**63 - 1)}
  %copy.655 = bf16[64,2,64,3]{{0,1,3,2:T(2,128)(2,1)S(1)}} copy(%fusion.1), {CYCLES % 4}
  %while.454 = (s32[]{{:T(128)}}, f32[32]{{0}}) while(%tuple), condition=%region_175.181_spmd, \
body=%region_0.180_spmd.sunk
  %all-reduce.238 = (bf16[150]{{0:T(256)(128)(2,1)S(1)}}, bf16[1,1,8,150]{{3,2,1,0:T(8,128)(2,1)S(1)}}, \
/*index=2*/s32[]{{:T(128)}}) all-reduce(%a, %b, %c), channel_id=4, to_apply=%add.1, \
metadata={{op_name="jit(train_step)/transpose(jvp(CPNet))/head/dot_general"}}
  %collective-permute-start.1 = (f32[8,4]{{1,0}}, f32[8,4]{{1,0}}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) \
collective-permute-start(%x), channel_id=5
  %collective-permute-done.1 = f32[8,4]{{1,0}} collective-permute-done(%collective-permute-start.1)
  %async-start.1 = ((f32[8,4]{{1,0}}), f32[32,4]{{1,0}}, u32[]) async-start(%y), calls=%gather
  ROOT %async-done.1 = f32[32,4]{{1,0}} async-done(%async-start.1)
}}
"""


def test_cycles_count_per_iteration_of_a_loop_and_not_inside_fusions():
    assert cycles.by_origin(Program(PROGRAM)).total() == 3 + 4 + 5 * 100


def test_cycles_are_summed_by_the_name_of_their_operation():
    found = cycles.by_origin(Program(PROGRAM))
    assert found == {"": 3 + 4, "jit(train_step)/while/body/jvp(CPNet)/bn/add": 5 * 100}


@pytest.mark.parametrize(
    "attributes",
    ["branch_computations={%dear, %cheap}", "true_computation=%cheap, false_computation=%dear"],
)
def test_a_conditional_counts_the_cheapest_branchs_cycles_and_all_branches_collectives(attributes):
    branch = """%{name} (p: f32[8]) -> f32[8] {{
  %f = f32[8]{{0}} fusion(%p), kind=kLoop, calls=%fused, {cycles}
  ROOT %all-reduce.1 = f32[8]{{0}} all-reduce(%f), channel_id=1, to_apply=%add
}}

"""
    text = branch.format(name="dear", cycles=CYCLES % 70) + branch.format(name="cheap", cycles=CYCLES % 50)
    text += f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  ROOT %c = f32[8]{{0}} conditional(%p, %a, %a), {attributes}\n}}\n"
    program = Program(text)
    assert (cycles.by_origin(program).total(), len(program.collectives())) == (50, 2)


def test_every_collective_is_found_with_its_arrays_and_number_of_runs():
    found = [
        (exchange.kind, exchange.times, [(array.dtype, array.shape, array.bytes) for array in exchange.arrays])
        for exchange in Program(PROGRAM).collectives()
    ]
    assert found == [
        ("all-reduce", 5, [("f32", (32,), 128)]),
        ("all-reduce", 1, [("bf16", (150,), 300), ("bf16", (1, 1, 8, 150), 2400), ("s32", (), 4)]),
        ("collective-permute", 1, [("f32", (8, 4), 128)]),
        ("all-gather", 1, [("f32", (32, 4), 512)]),
    ]


def test_a_collective_has_the_name_of_its_operation():
    origins = [exchange.origins[0] for exchange in Program(PROGRAM).collectives()]
    assert origins[0].endswith("bn/reduce_sum") and "transpose(" in origins[1]


JOINED = """%joined (p0: bf16[128], p1: bf16[64]) -> bf16[192] {
  %p0 = bf16[128]{0} parameter(0)
  %p1 = bf16[64]{0} parameter(1)
  ROOT %concatenate.1 = bf16[192]{0} concatenate(%p1, %p0), dimensions={0}
}

ENTRY %main (a: bf16[2,64]) -> bf16[192] {
  %a = bf16[2,64]{1,0} fusion(%x), kind=kLoop, calls=%f, metadata={op_name="jit(run)/jvp(CPNet)/bn/reduce_sum"}
  %b = bf16[64]{0} fusion(%x), kind=kLoop, calls=%f, metadata={op_name="jit(run)/transpose(jvp(CPNet))/bn/mul"}
  %bitcast.1 = bf16[128]{0} bitcast(%a)
  %fusion.1 = bf16[192]{0} fusion(%bitcast.1, %b), kind=kLoop, calls=%joined
  ROOT %all-reduce.1 = bf16[192]{0} all-reduce(%fusion.1), channel_id=1, to_apply=%add
}
"""


def test_the_parts_of_a_joined_array_are_found_with_their_shapes_and_names():
    """XLA for GPUs sums many small arrays as one long one."""
    [found] = Program(JOINED).collectives()
    assert [(array.shape, array.bytes) for array in found.arrays] == [((64,), 128), ((2, 64), 256)]
    assert ["transpose(" in origin for origin in found.origins] == [True, False]


def test_a_known_number_of_iterations_overrides_the_condition():
    told = 'body=%region_0.180_spmd.sunk, backend_config={"known_trip_count":{"n":"9"}}'
    told = PROGRAM.replace("body=%region_0.180_spmd.sunk", told)
    assert cycles.by_origin(Program(told)).total() == 3 + 4 + 9 * 100


def test_a_loop_with_unknown_iterations_and_a_text_without_a_program_are_refused():
    with pytest.raises(ValueError, match="iterations"):
        cycles.by_origin(Program(PROGRAM.replace("constant(5)", "parameter(1)")))
    with pytest.raises(ValueError, match="ENTRY"):
        Program("HloModule nothing")
