"""Arithmetic and bytes of a GPU program's kernels, from text as XLA prints it for an H100."""

import pytest

from cpnet_jax.plan import kernels, roofline
from cpnet_jax.plan.gpus import CARDS
from cpnet_jax.plan.hlo import Program

H100 = CARDS["h100"]
LABELS = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f"


def program(*lines, computations=""):
    return Program(computations + "ENTRY %main (p: f32[4]) -> f32[4] {\n  " + "\n  ".join(lines) + "\n}\n")


def found(*lines, computations=""):
    return kernels.kernels(program(*lines, computations=computations), lambda kernel: roofline.seconds(kernel, H100))


def fusion(body, *operands, result):
    """A fusion of these operands (types), whose computation has the lines of `body`."""
    parameters = [f"%p{place} = {type_} parameter({place})" for place, type_ in enumerate(operands)]
    inside = "%fused (p: f32[4]) -> f32[4] {\n  " + "\n  ".join([*parameters, *body]) + "\n}\n\n"
    outside = [f"%o{place} = {type_} parameter({place})" for place, type_ in enumerate(operands)]
    names = ", ".join(f"%o{place}" for place in range(len(operands)))
    [kernel] = found(*outside, f"ROOT %f = {result} fusion({names}), kind=kLoop, calls=%fused", computations=inside)
    return kernel


# --- calls of libraries -----------------------------------------------------------------------------------------------

IMAGES, FEATURES, KERNEL = "bf16[8,64,64,96]{3,2,1,0}", "bf16[8,64,64,32]{3,2,1,0}", "bf16[32,3,3,96]{3,2,1,0}"
CONVOLUTIONS = {
    "__cudnn$convForward": (IMAGES, KERNEL, FEATURES),
    "__cudnn$convBiasActivationForward": (IMAGES, KERNEL, FEATURES),
    "__cudnn$convBackwardInput": (FEATURES, KERNEL, IMAGES),
    "__cudnn$convBackwardFilter": (IMAGES, FEATURES, KERNEL),
}


@pytest.mark.parametrize("target", CONVOLUTIONS)
def test_a_convolution_and_its_gradients_have_the_operations_of_the_definition(target):
    x, y, result = CONVOLUTIONS[target]
    [kernel] = found(
        f"%x = {x} parameter(0)",
        f"%y = {y} parameter(1)",
        f"%c = ({result}, u8[1048576]{{0}}) custom-call(%x, %y), {LABELS}, "
        f'custom_call_target="{target}", metadata={{op_name="jit(run)/jvp(CPNet)/head/conv/conv_general_dilated"}}',
    )
    assert kernel.kind == "convolution" and kernel.origin.endswith("head/conv/conv_general_dilated")
    assert dict(kernel.flops) == {"bf16": 2 * (8 * 64 * 64 * 32) * (3 * 3 * 96)}
    assert kernel.bytes == 2 * (8 * 64 * 64 * (96 + 32) + 32 * 3 * 3 * 96), "its working memory does not count"


def test_a_depthwise_convolution_multiplies_each_channel_with_its_own_window():
    x = "bf16[2,16,16,512]{3,2,1,0}"
    [kernel] = found(
        f"%x = {x} parameter(0)",
        "%k = bf16[512,11,1,1]{3,2,1,0} parameter(1)",
        f"%c = ({x}, u8[0]{{0}}) custom-call(%x, %k), window={{size=11x1 pad=5_5x0_0}}, dim_labels=b01f_o01i->b01f, "
        'feature_group_count=512, custom_call_target="__cudnn$convForward"',
    )
    assert kernel.flops.total() == 2 * (2 * 16 * 16 * 512) * 11


@pytest.mark.parametrize(
    ("dtype", "precision", "arithmetic"),
    [("f32", "DEFAULT", "tf32"), ("f32", "HIGHEST", "f32"), ("bf16", "HIGHEST", "bf16"), ("f64", "DEFAULT", "f64")],
)
def test_a_product_is_computed_in_the_type_of_its_operands_and_float32_in_tf32_by_default(dtype, precision, arithmetic):
    [kernel] = found(
        f"%x = {dtype}[512,4096]{{1,0}} parameter(0)",
        f"%y = {dtype}[512,256]{{1,0}} parameter(1)",
        "%c = (f32[4096,256]{1,0}, s8[33554432]{0}) custom-call(%x, %y), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]},'
        f'"precision_config":{{"operand_precision":["{precision}","{precision}"]}}}}}}',
    )
    assert dict(kernel.flops) == {arithmetic: 2 * 4096 * 256 * 512}


# --- fusions ----------------------------------------------------------------------------------------------------------


def test_a_fusion_reads_its_operands_once_and_writes_its_result():
    kernel = fusion(
        ["%e = f32[8,100]{1,0} exponential(%p0)", "ROOT %m = f32[8,100]{1,0} multiply(%e, %p1)"],
        "f32[8,100]{1,0}",
        "f32[8,100]{1,0}",
        result="f32[8,100]{1,0}",
    )
    assert kernel.bytes == 3 * 800 * 4
    assert kernel.operations == 800 * (kernels.TRANSCENDENTAL_COST + 1)


def test_a_slice_reads_only_what_it_takes_and_two_slices_read_both():
    whole, row = "f32[100,10]{1,0}", "f32[1,10]{1,0}"
    one = fusion([f"ROOT %s = {row} dynamic-slice(%p0, %p1, %p1)"], whole, "s32[]", result=row)
    assert one.bytes == 40 + 4 + 40
    two = fusion(
        [
            f"%a = {row} slice(%p0), slice={{[0:1], [0:10]}}",
            f"%b = {row} slice(%p0), slice={{[9:10], [0:10]}}",
            f"ROOT %s = {row} add(%a, %b)",
        ],
        whole,
        result=row,
    )
    assert two.bytes == 80 + 40


def test_an_update_in_place_writes_only_what_it_changes():
    whole, row = "f32[100,10]{1,0}", "f32[1,10]{1,0}"
    update = f"%u = {whole} dynamic-update-slice(%p0, %p1, %p2, %p2)"
    kernel = fusion([f"ROOT {update}"], whole, row, "s32[]", result=whole)
    assert kernel.bytes == 40 + 4 + 40
    seen_through = fusion([update, "ROOT %b = f32[1000]{0} bitcast(%u)"], whole, row, "s32[]", result="f32[1000]{0}")
    assert seen_through.bytes == kernel.bytes
    elsewhere = fusion([update, f"ROOT %n = {whole} negate(%u)"], whole, row, "s32[]", result=whole)
    assert elsewhere.bytes == 4000 + 40 + 4 + 4000


def test_a_scatter_in_place_reads_and_writes_only_what_it_changes():
    whole, rows = "f32[100,10]{1,0}", "f32[3,10]{1,0}"
    kernel = fusion([f"ROOT %u = {whole} scatter(%p0, %p1, %p2)"], whole, "s32[3,1]{1,0}", rows, result=whole)
    assert kernel.bytes == 120 + 12 + 120 + 120
    assert kernel.operations == 30


def test_a_windowed_reduction_takes_every_element_of_its_windows():
    image, pooled = "f32[2,64,64,32]{3,2,1,0}", "f32[2,32,32,32]{3,2,1,0}"
    window = f"%r = {pooled} reduce-window(%p0, %p1), window={{size=1x3x3x1 stride=1x2x2x1 pad=0_0x0_1x0_1x0_0}}"
    kernel = fusion([f"ROOT {window}"], image, "f32[]", result=pooled)
    assert kernel.operations == 9 * 2 * 32 * 32 * 32
    assert kernel.bytes == 4 * (2 * 64 * 64 * 32 + 1 + 2 * 32 * 32 * 32)
    part = "f32[2,4,32,32]{3,2,1,0}"
    sliced = fusion([window, f"ROOT %s = {part} slice(%r), slice={{[0:2], [0:4]}}"], image, "f32[]", result=part)
    assert sliced.operations == kernel.operations // 8
    read = sliced.bytes - 4 * (1 + 2 * 4 * 32 * 32)
    assert 4 * 2 * 8 * 64 * 32 <= read <= 4 * 2 * (4 * 9) * 64 * 32, "windows of 4 rows, counted without their overlap"


def test_a_product_inside_a_fusion_counts():
    kernel = fusion(
        [
            "%c = f32[64,32]{1,0} convert(%p0)",
            "%d = f32[64,16]{1,0} dot(%c, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            "ROOT %a = f32[64,16]{1,0} add(%d, %p2)",
        ],
        "bf16[64,32]{1,0}",
        "f32[32,16]{1,0}",
        "f32[64,16]{1,0}",
        result="f32[64,16]{1,0}",
    )
    assert dict(kernel.flops) == {"tf32": 2 * 64 * 16 * 32}
    assert kernel.bytes == 2 * 64 * 32 + 4 * (32 * 16 + 2 * 64 * 16)


# --- the program ------------------------------------------------------------------------------------------------------

BRANCHES = """%dear (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  %first = f32[1000]{0} copy(%p)
  ROOT %second = f32[1000]{0} copy(%first)
}

%cheap (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  ROOT %only = f32[1000]{0} copy(%p)
}

"""


def test_a_loops_kernels_run_once_an_iteration():
    body = BRANCHES.split("%cheap")[0]
    [first, second] = found(
        "%p = f32[1000]{0} parameter(0)",
        '%w = f32[1000]{0} while(%p), condition=%c, body=%dear, backend_config={"known_trip_count":{"n":"16"}}',
        computations=body,
    )
    assert (first.times, second.times) == (16, 16)


def test_of_a_conditional_the_branch_counts_that_takes_the_least():
    line = "%c = f32[1000]{0} conditional(%i, %p, %p), branch_computations={%dear, %cheap}"
    assert [kernel.name for kernel in found(line, computations=BRANCHES)] == ["only"]


def test_renaming_waiting_and_communication_are_no_kernels():
    assert not found(
        "%p = f32[8]{0} parameter(0)",
        "%b = f32[2,4]{1,0} bitcast(%p)",
        "%t = (f32[8]{0}, f32[2,4]{1,0}) tuple(%p, %b)",
        "%g = f32[8]{0} get-tuple-element(%t), index=0",
        "%s = f32[8]{0} all-reduce-start(%g), channel_id=1, to_apply=%add",
        "%d = f32[8]{0} all-reduce-done(%s)",
        "%c = f32[] constant(1)",
    )


# --- the roofline -----------------------------------------------------------------------------------------------------


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory_and_a_launch():
    copy = found("%p = f32[1000000]{0} parameter(0)", "%c = f32[1000000]{0} copy(%p)")[0]
    assert roofline.seconds(copy, H100) == pytest.approx(8e6 / 3.35e12 + roofline.LAUNCH_SECONDS)
    x = "bf16[4096,4096]{1,0}"
    [product] = found(
        f"%x = {x} parameter(0)",
        f'%c = {x} custom-call(%x, %x), custom_call_target="__cublas$gemm", lhs_contracting_dimensions={{1}}',
    )
    assert roofline.seconds(product, H100) == pytest.approx(2 * 4096**3 / 989.4e12 + roofline.LAUNCH_SECONDS)


def test_the_parts_add_up_to_the_whole():
    named = 'metadata={op_name="jit(run)/jvp(CPNet)/head/conv/add"}'
    text = program(
        "%p = f32[1000000]{0} parameter(0)",
        f"%a = f32[1000000]{{0}} copy(%p), {named}",
        f"%b = f32[1000000]{{0}} copy(%a), {named}",
        "%c = f32[1000000]{0} copy(%b)",
    )
    sums = roofline.by_part(text, H100)
    assert (sums["head"].launches, sums["the rest"].launches, sums["stem"].launches) == (2, 1, 0)
    assert sums["head"].bytes == 2 * sums["the rest"].bytes == 16e6
    each = [roofline.seconds(kernel, H100) for kernel in kernels.kernels(text, lambda kernel: 0.0)]
    assert sum(part.seconds for part in sums.values()) == pytest.approx(sum(each))
