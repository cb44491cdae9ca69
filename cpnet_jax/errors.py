"""Errors the user can fix. They are printed as one sentence, without a traceback."""


class UserError(Exception):
    """A mistake in a config, a flag or the data.

    The message says which file or field, what is wrong, and what to do. `exit_status` is the process's exit status.
    """

    exit_status = 2


class TrainingDiverged(UserError):
    """A non-finite loss or gradient. The state before it is saved."""

    exit_status = 3


class WorkerDied(UserError):
    """A worker process of the input pipeline exited or was killed. Running the same command again continues."""

    exit_status = 4


class WriteFailed(UserError):
    """A checkpoint could not be written. Earlier checkpoints are intact."""


class Stopped(Exception):
    """Stopped by request with all steps saved. Running the same command again continues."""

    exit_status = 75  # EX_TEMPFAIL: try again
