"""The text of a plan."""

from dataclasses import replace

from plan.steps import EXCHANGES, compiled, exchange

from cpnet_jax.plan import topologies
from cpnet_jax.plan.report import report

SLICE = topologies.parse("v5e:4x4")


def rows(text, column):
    """Rows of the table that has this column, as dicts."""
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if column in lines[0]:
            return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    raise AssertionError(f"no table has a column {column}")


def test_a_global_batch_is_compared_on_every_number_of_chips_that_divides_it():
    steps = [compiled(images, cycles=1_503_000 * (10 + images), exchanges=[]) for images in (1, 2, 3, 8)]
    text = report("a config", 16, SLICE, steps)
    spent = [(row["chips"], row["images/chip"], row["step ms"]) for row in rows(text, "chip-hours per million images")]
    assert spent == [("16", "1", "11.0"), ("8", "2", "12.0"), ("2", "8", "18.0")]
    assert "costs least on 2 chip(s) with 8 images each: 444.4 images/s/chip" in text
    # 16 x 1000 / 11 against 16 x 1000 / 18 images/s; 90.9 against 444.4 on each chip.
    assert "fastest on 16 chips with 1 each: 1.6 times as fast for 4.9 times the chip-hours" in text


def test_cycles_are_reported_by_part_of_the_network():
    found = rows(report("a config", 16, SLICE, [compiled(2), compiled(4, cycles=2 * 10**6)]), "stem")
    # The only operation of these steps has no name.
    assert [(row["images/chip"], row["stem"], row["the rest"]) for row in found] == [
        ("2", "0.0", "1.5"),
        ("4", "0.0", "2.0"),
    ]


def test_scaling_goes_to_1024_chips_and_loses_only_the_exchange():
    found = rows(report("a config", 16, SLICE, [compiled(2)]), "efficiency")
    assert [(row["chips"], row["slices"]) for row in found][-2:] == [("256", "1"), ("1024", "4")]
    rates = [int(row["images/s"]) / int(row["chips"]) for row in found]
    assert rates == sorted(rates, reverse=True) and 1900 < rates[-1] < 2000


def test_steps_that_do_not_fit_are_reported_and_left_out_of_the_tables():
    text = report("a config", 16, SLICE, [compiled(2, gib=9.0), compiled(4, gib=17.5)], largest=3)
    assert "4 images per chip need at least 17.5 GiB and do not fit" in text
    assert "At most 3 images per chip fit" in text
    assert [row["together"] for row in rows(text, "together")] == ["9.00"]
    nothing = report("a config", 16, SLICE, [compiled(1, gib=17.5)], largest=0)
    assert "Not even one image per chip fits" in nothing


def test_the_number_of_exchanges_in_the_table_is_that_in_the_text():
    """One of the five all-reduces holds gradients, statistics and scalars."""
    text = report("a config", 16, SLICE, [compiled(2)])
    *kinds, together = rows(text, "collective")
    assert "by 5 all-reduces per step" in text and together["times"] == "5"
    assert sum(int(row["times"]) for row in kinds) == 6
    assert abs(sum(float(row["MB"]) for row in kinds) - float(together["MB"])) < 2e-3


GPU_PROGRAM = """ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[1000000]{0} parameter(0)
  ROOT %c = f32[1000000]{0} copy(%p), metadata={op_name="jit(run)/jvp(CPNet)/head/conv/add"}
}
"""


def test_gpus_get_a_roofline_by_part_and_are_called_gpus():
    step = replace(compiled(8), program=GPU_PROGRAM)
    text = report("a config", 16, topologies.parse("h100:8"), [step], largest=12)
    found = {row["part"]: (row["kernels"], row["GB"], row["together ms"]) for row in rows(text, "part")}
    assert found == {"head": ("1", "0.01", "0.00"), "all": ("1", "0.01", "0.00")}
    assert "8 GPUs of 80 GiB and 989 TFLOP/s" in text and "At most 12 images per GPU fit on h100." in text
    assert [row["GPUs"] for row in rows(text, "efficiency")] == ["1", "2", "4", "8"]
    assert "chip" not in text.replace("--images_per_chip", "").replace("The chips", "")


def test_a_batch_is_not_spent_on_more_gpus_than_a_machine_has():
    exchanging = GPU_PROGRAM.replace("ROOT", "%e = f32[64]{0} all-reduce(%p)\n  ROOT")
    steps = [replace(compiled(images), program=exchanging) for images in (1, 2, 4)]
    machine = topologies.parse("h100:8")
    text = report("a config", 16, machine, steps)
    assert [row["GPUs"] for row in rows(text, "GPU-hours per million images")] == ["8", "4"]
    assert "over at most 8 GPUs" in report("a config", 16, machine, steps[:1])


def test_gpus_with_more_memory_than_jax_takes_are_told_apart_from_it():
    text = report("a config", 16, topologies.parse("l4:1"), [compiled(4, gib=20.0)], largest=3)
    assert "4 images per GPU need at least 20.0 GiB and do not fit in the 16.8 GiB that JAX takes." in text


def test_a_single_device_has_no_tables_of_communication():
    text = report("a config", 16, topologies.parse("h100:1"), [replace(compiled(8), program=GPU_PROGRAM)])
    assert "efficiency" not in text and "exchanges nothing" in text


def test_unexpected_communication_is_named():
    assert "The chips exchange only gradients" in report("a config", 16, SLICE, [compiled(2)])
    gathered = compiled(2, exchanges=[*EXCHANGES, exchange("f32[4,500,500]{2,1,0}", kind="all-gather")])
    text = report("a config", 16, SLICE, [gathered, compiled(4)])
    assert (
        "With 2 images per chip, chips exchange more than data parallelism needs: all-gather of something else (4.00"
        in text
    )
