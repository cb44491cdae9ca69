"""The training state: one pytree with everything that a checkpoint saves of the model and the optimiser."""

from collections.abc import Sequence
from dataclasses import replace

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from cpnet_jax.training import finetune


@flax.struct.dataclass
class TrainState:
    """Parameters, statistics, optimiser state and counters.

    Attributes:
      step: batches taken.
      params: the parameters.
      batch_stats: the running statistics of the BatchNorms.
      opt_state: the optimiser's state, for the trained parameters only.
      rng: key data; each step folds its number in to get its dropout key.
      skipped: consecutive non-finite steps up to now, which changed nothing; or STOPPED.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    rng: jax.Array
    skipped: Int[Array, ""]

    @property
    def variables(self) -> PyTree:
        """The network's variables, {"params": ..., "batch_stats": ...}."""
        return {"params": self.params, "batch_stats": self.batch_stats}


# Value of `skipped` after too many non-finite steps: no later step changes the state.
STOPPED = -1


def initial_variables(model: nn.Module, image_size: tuple[int, int], key: jax.Array) -> PyTree:
    """Initial variables {"params": ..., "batch_stats": ...} of a model; for use under jit.

    XLA drops the forward pass of `init`, because its result is unused.
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
      model: a linen module of images.
      tx: the optimiser.
      image_size: (height, width) in pixels.
      seed: determines parameters and dropout.
      freeze: patterns of the parameters that are not trained, see `finetune.split`.
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
    """The state after a step: `new` if the step was finite.

    Otherwise it is `old` with the counters of `new`, because schedules count skipped steps, too. After more than
    `limit` non-finite steps in a row it is `old` unchanged, and stays so. So the monitor, which reads the metrics one
    step behind the devices, finds the last good state untouched by later steps.

    Args:
      old: the state before the step.
      new: the state after the step.
      finite: whether loss and gradient are finite.
      limit: how many steps may be skipped in a row.
    """
    skipped = jnp.where(finite, 0, old.skipped + 1)
    stop = (old.skipped == STOPPED) | (skipped > limit)

    def pick(before: Array, after: Array) -> Array:
        counts = jnp.issubdtype(before.dtype, jnp.integer)
        return jnp.where(stop if counts else stop | ~finite, before, after)

    chosen = jax.tree.map(pick, old, new)
    return replace(chosen, skipped=jnp.where(stop, STOPPED, skipped))
