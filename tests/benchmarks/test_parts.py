"""A step's time by part of the network, from a real profile."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import parts
from benchmarks.accelerator import _parts
from cpnet_jax.plan.hlo import Program

H100 = "NVIDIA H100 80GB HBM3"
COPY = """ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[1000000]{0} parameter(0)
  ROOT %c = f32[1000000]{0} copy(%p), metadata={op_name="jit(run)/jvp(CPNet)/head/conv/add"}
}
"""


def test_operations_are_measured_under_the_part_that_their_name_says():
    @jax.jit
    def run(x):
        def add(y, _):
            with jax.named_scope("jvp(CPNet)/head/conv"):
                return jnp.tanh(y @ x), None

        return jax.lax.scan(add, x, None, length=5)[0]

    x = jnp.ones((300, 300))
    compiled = run.lower(x).compile()
    found = parts.measured(Program(compiled.as_text()), lambda: compiled(x).block_until_ready(), times=3)
    assert found["head"] > 10 * found["stem"] == 0
    assert found["head"] > 0.5 * sum(found.values()), "a loop counts by its operations"


def test_a_plan_needs_a_card_whose_figures_are_known():
    program = Program(COPY)
    assert parts.planned(program, "cpu") is None
    planned = parts.planned(program, H100)
    assert planned is not None and planned["head"] == pytest.approx(8e6 / 3.35e12 + 1e-6)


def test_the_table_has_what_was_planned_beside_what_was_measured():
    step = {"seconds": 0.05, "measured_parts": {"stem": 0.001, "head": 0.02}}
    step["planned_parts"] = {"stem": 0.0005, "head": 0.015}
    lines = _parts(step)
    assert lines[3:] == [
        "| head | 15.00 | 20.00 |",
        "| stem | 0.50 | 1.00 |",
        "| all (50.00 ms without a profile) | 15.50 | 21.00 |",
    ]
    assert _parts(step | {"planned_parts": None})[3] == "| head |  | 20.00 |"
    assert _parts(None) == []
