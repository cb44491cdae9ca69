"""The TPU compiler's estimate of a program's cycles, which it writes beside every instruction."""

import re
from collections import Counter

from cpnet_jax.plan.hlo import Program

# The compiler writes its largest integer if it has no estimate.
NO_ESTIMATE = 2**63 - 1

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def by_origin(program: Program) -> Counter[str]:
    """Cycles of one run by JAX's name of the operation, "" if unknown. A fusion counts for one of its operations.

    A lower bound, since collectives and some other instructions have no estimate. Of a conditional the cheapest branch
    counts.
    """
    return _of(program, program.entry)


def _of(program: Program, computation: str) -> Counter[str]:
    cycles = Counter()
    for instruction in program.computations[computation]:
        if (own := _CYCLES.search(instruction.rest)) and int(own[1]) != NO_ESTIMATE:
            cycles[instruction.origin] += int(own[1])
        if inner := [_of(program, called) for called in instruction.called()]:
            run = [min(inner, key=Counter.total)] if instruction.operation == "conditional" else inner
            for origin, count in sum(run, Counter()).items():
                cycles[origin] += count * program.times(instruction)
    return cycles
