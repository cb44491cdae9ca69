"""The training state: one pytree, all that a checkpoint needs of the model and the optimiser."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree


@flax.struct.dataclass
class TrainState:
    """`step` counts optimiser updates; `rng` is the key from which each step's dropout key is folded."""

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    rng: jax.Array


def create_state(
    model: nn.Module, tx: optax.GradientTransformation, image_size: tuple[int, int], seed: int
) -> TrainState:
    """The state at step 0, a pure function of its arguments; for use under jit.

    Only the initialisers survive compilation: nothing reads the forward pass of `init`, so XLA drops it.
    """
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    variables = model.init(init_key, jnp.zeros((1, *image_size, 3)), train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        rng=jax.random.key_data(dropout_key),
    )
