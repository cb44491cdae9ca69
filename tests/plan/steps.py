"""Small compiled steps in the compiler's format, for tests."""

from cpnet_jax.plan.compiler import Compiled

PROGRAM = """ENTRY %main (p: f32[4]) -> f32[4] {{
  %fusion.1 = f32[4]{{0}} fusion(%p), kind=kLoop, calls=%f, backend_config={{"estimated_cycles":"{cycles}"}}
{exchanges}
}}
"""
FORWARD, BACKWARD = "jit(train_step)/jvp(CPNet)/bn/reduce_sum", "jit(train_step)/transpose(jvp(CPNet))/bn/reduce_sum"


def exchange(types, origin=BACKWARD, kind="all-reduce"):
    return f'  %e = {types} {kind}(%x), channel_id=1, metadata={{op_name="{origin}"}}'


EXCHANGES = [
    exchange("(f32[64]{0:T(128)}, f32[64]{0:T(128)})", FORWARD),
    exchange("f32[512,512]{1,0:T(8,128)}", FORWARD),
    exchange("s32[]{:T(128)}", FORWARD),
    exchange("(bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)}, f32[]{:T(128)}, f32[64]{0:T(128)})"),
    exchange("bf16[512,1,1,11]{3,2,1,0}"),
]


def compiled(images=2, *, cycles=1_503_000, exchanges=EXCHANGES, gib=1.0):
    """A step that takes 1 ms on a v5e per 1,503,000 cycles; it does not fit if `gib` exceeds 16."""
    fits = gib <= 16
    memory = {"argument": 1000, "output": 600, "alias": 500, "temp": int(gib * 2**30) - 1100, "generated_code": 0}
    return Compiled(
        images=images,
        flops=images * 10**9,
        state={"params": 400, "opt_state": 400, "batch_stats": 50},
        batch=100,
        parameters=[[64], [128], [3, 3, 64, 128], [11, 1, 1, 512]],
        statistics=[[64], [128], [512]],
        memory=memory if fits else None,
        needed=None if fits else int(gib * 2**30),
        program=PROGRAM.format(cycles=cycles, exchanges="\n".join(exchanges)) if fits else None,
        seconds=60.0,
    )
