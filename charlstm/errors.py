"""What can go wrong in a user's hands, and the exit status that the command line gives for it.

Every message says what is wrong and what to do about it, in one line.
"""


class CharLSTMError(Exception):
    """Base of all errors that charlstm raises on purpose. Exit status 1."""

    exit_code = 1


class UsageError(CharLSTMError, ValueError):
    """An option or argument that cannot be used. Exit status 2."""

    exit_code = 2


class DataError(CharLSTMError, ValueError):
    """Text or vocabulary that cannot be used. Exit status 3."""

    exit_code = 3


class DivergedError(CharLSTMError, ArithmeticError):
    """The loss is no longer a finite number. Exit status 4."""

    exit_code = 4


class BackendError(CharLSTMError, RuntimeError):
    """A backend whose library or device is missing. Exit status 5."""

    exit_code = 5


class DeviceError(CharLSTMError, RuntimeError):
    """A GPU, or a library on it, that has failed while it was used. Exit status 1."""


class CheckpointError(CharLSTMError, ValueError):
    """A model directory that is incomplete, foreign or damaged. Exit status 1."""
