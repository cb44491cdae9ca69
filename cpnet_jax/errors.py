"""Failures that are the user's to repair: told in one sentence, without a traceback."""


class UserError(Exception):
    """A mistake in a config, a flag or the data. The message says which file or field, what is wrong, what to do.

    `exit_status` is what the process ends with.
    """

    exit_status = 2


class TrainingDiverged(UserError):
    """A loss stopped being finite. The state before it is kept."""

    exit_status = 3


class WorkerDied(UserError):
    """A worker process of the input pipeline ended by itself or was killed. Starting again goes on."""

    exit_status = 4


class WriteFailed(UserError):
    """A checkpoint could not be written. The ones before it are intact."""


class Stopped(Exception):
    """Asked to stop, and did so with everything saved: the same command goes on. The message says where."""

    exit_status = 75  # EX_TEMPFAIL: try again
