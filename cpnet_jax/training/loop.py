"""The training loop. Its order is a contract, which resuming relies on:

    evaluate > save > publish > next(batch) > step

The checkpoint of step t is written after the evaluation of step t, whose mIoU it holds, and before batch t is taken. A
run that resumes from it takes batch t next, so it repeats nothing and skips nothing.

The evaluation is published after the checkpoint, so that a failure to publish costs no step. A run that resumes at a
step whose evaluation was not published evaluates it again, publishes it, and goes on.

An evaluation that fails costs no step either: a checkpoint without a mIoU is written before the error is raised. The
mIoU is added when a resumed run has evaluated the step. Only a single process saves there: with several, the others may
still be evaluating, and a checkpoint needs all of them.
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
    published: bool,
    evaluate: Callable[[TrainState], Found],
    save: Callable[[TrainState, int, Found | None], None],
    add_score: Callable[[int, Found], None],
    publish: Callable[[Found, TrainState, int, float], None],
    check_saves: Callable[[], None],
    monitor: Monitor,
    profile: Profile,
    stop: StopRequests,
) -> None:
    """Takes the steps from `start` to `total`.

    Args:
      state: after `start` steps.
      train_step: (state, batch) -> (state, metrics); it may donate the state passed in.
      batches: global batches from number `start` on.
      start: steps taken so far; equal to `total` if only the last evaluation is left.
      total: steps at the end of training.
      eval_every: steps between evaluations; 0: only at the end.
      checkpoint_every: steps between checkpoints. Each evaluation is followed by one, too.
      published: whether the evaluation of step `start` was published, or none is due.
      evaluate: state -> evaluation.
      save: starts writing a checkpoint of (state, step, evaluation if there was one).
      add_score: adds the mIoU of (step, evaluation) to its checkpoint, if that was written without.
      publish: writes the results of (evaluation, state, step, seconds that the evaluation took).
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
            seconds = 0.0
            if (last or _due(step, eval_every)) and (fresh or not published):
                elapsed = monitor.pause()
                try:
                    evaluation = evaluate(state)
                except Exception:
                    if fresh and jax.process_count() == 1:
                        save(state, step, None)
                    raise
                seconds = elapsed()

            # save
            stopping = stop.requested(step)
            if fresh and (evaluation is not None or stopping or _due(step, checkpoint_every)):
                elapsed = monitor.pause()
                save(state, step, evaluation)
                monitor.log(step, {"checkpoint_seconds": elapsed()})
            elif evaluation is not None:
                add_score(step, evaluation)

            # publish
            if evaluation is not None:
                publish(evaluation, state, step, seconds)
            if last:
                return
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
    raise ValueError(f"start is {start}, beyond the last step {total}")


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
