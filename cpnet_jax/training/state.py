"""The training state: one pytree, all that a checkpoint needs of the model and the optimiser."""

from collections.abc import Sequence

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from cpnet_jax.training import finetune


@flax.struct.dataclass
class TrainState:
    """`step` counts the batches taken; `rng` is the key from which each step's dropout key is folded; `skipped` counts
    the last steps in a row that were not finite and changed nothing, or is STOPPED."""

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    rng: jax.Array
    skipped: Int[Array, ""]


# In place of `skipped`: there were too many of them, and no later step changes anything.
STOPPED = -1


def initial_variables(model: nn.Module, image_size: tuple[int, int], key: jax.Array) -> PyTree:
    """{"params": ..., "batch_stats": ...} of a model; for use under jit.

    Only the initialisers survive compilation: nothing reads the forward pass of `init`, so XLA drops it.
    """
    return model.init(key, jnp.zeros((1, *image_size, 3)), train=False)


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_size: tuple[int, int],
    seed: int,
    freeze: Sequence[str] = (),
) -> TrainState:
    """The state at step 0, a pure function of its arguments; for use under jit.

    Args:
      freeze: patterns of the parameters that the optimiser does not get to see, see `finetune.split`.
    """
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    variables = initial_variables(model, image_size, init_key)
    trained, _ = finetune.split(variables["params"], freeze)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(trained),
        rng=jax.random.key_data(dropout_key),
        skipped=jnp.zeros((), jnp.int32),
    )


def choose(old: TrainState, new: TrainState, finite: Bool[Array, ""], limit: int) -> TrainState:
    """The state after a step: `new` where the step was finite.

    Else `old`, but for its counters, which go on: a schedule is over the steps, whether they were skipped or not. After
    more than `limit` such steps in a row it is `old` as it is, and remains so: whoever watches the steps a little
    behind the devices finds the last good state untouched by those that came after.

    Args:
      old, new: before and after the step.
      finite: whether the step's figures are.
      limit: how many may be skipped in a row.
    """
    skipped = jnp.where(finite, 0, old.skipped + 1)
    stop = (old.skipped == STOPPED) | (skipped > limit)

    def pick(before: Array, after: Array) -> Array:
        counts = jnp.issubdtype(before.dtype, jnp.integer)
        return jnp.where(stop if counts else stop | ~finite, before, after)

    chosen = jax.tree.map(pick, old, new)
    return chosen.replace(skipped=jnp.where(stop, STOPPED, skipped))
