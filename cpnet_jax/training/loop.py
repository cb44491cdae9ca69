"""The training loop. Its order is a contract, which resuming relies on:

    evaluate > save > next(batch) > step

The checkpoint of step t is written after the evaluation of step t and before batch t is taken. A run that resumes from
it takes batch t next, so it repeats nothing and skips nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from cpnet_jax.errors import Stopped
from cpnet_jax.training.monitor import Monitor, NonFiniteStep
from cpnet_jax.training.profile import Profile
from cpnet_jax.training.state import TrainState

Found = TypeVar("Found")  # what an evaluation returns
TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


@runtime_checkable
class StopRequests(Protocol):
    """Requests to stop the run early; see `runtime.signals.Stop`."""

    def requested(self, step: int) -> bool: ...

    def step_taken(self) -> None: ...


def train(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Any],
    *,
    start: int,
    total: int,
    eval_every: int,
    checkpoint_every: int,
    evaluate: Callable[[TrainState], Found],
    report: Callable[[Found, TrainState, int], None],
    save: Callable[[TrainState, int, Found | None], None],
    check_saves: Callable[[], None],
    monitor: Monitor,
    profile: Profile,
    stop: StopRequests,
) -> Found:
    """Takes the steps from `start` to `total`; returns the last evaluation.

    Args:
      state: after `start` steps.
      train_step: (state, batch) -> (state, metrics); it may donate the state passed in.
      batches: global batches from number `start` on.
      start: steps taken so far.
      total: steps at the end of training.
      eval_every: steps between evaluations; 0: only at the end.
      checkpoint_every: steps between checkpoints. Each evaluation is followed by one, too.
      evaluate: state -> figures.
      report: publishes the figures of (evaluation, state, step).
      save: starts writing a checkpoint of (state, step, evaluation if there was one).
      check_saves: raises if the save in progress has failed; does not wait for it.
      monitor: reads the metrics of the steps.
      profile: traces the steps chosen by the user.
      stop: asked before every step.

    Raises:
      Stopped: on a request to stop; all steps taken are saved.
      NonFiniteStep: if the loss or gradient stays non-finite; its `state` is the last good one.
    """
    for step in range(start, total + 1):
        last, fresh = step == total, step > start
        try:
            check_saves()

            # evaluate
            evaluation: Any = None
            if last or (fresh and _due(step, eval_every)):
                with monitor.pause("evaluation", step):
                    evaluation = evaluate(state)
                    report(evaluation, state, step)

            # save
            stopping = stop.requested(step)
            if fresh and (evaluation is not None or stopping or _due(step, checkpoint_every)):
                with monitor.pause("checkpoint", step):
                    save(state, step, evaluation)
            if last:
                return evaluation
            if stopping:
                raise Stopped(f"Stopped at step {step} with all steps saved. Run the same command again to continue.")

            with profile.step(step + 1, finish=monitor.catch_up):
                # next(batch)
                with monitor.waiting_for_input():
                    batch = next(batches)

                # step
                state, metrics = train_step(state, batch)
                monitor.step_taken(step + 1, metrics)
                stop.step_taken()
        except NonFiniteStep as found:
            found.state = state  # the steps taken since then have not changed it
            raise
    raise ValueError(f"start is {start} and total is {total}: there must be steps left to take")


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
