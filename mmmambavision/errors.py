"""Errors that a user can cause and mend."""


class UserError(ValueError):
    """A mistake in a config, a command or a file.

    Args:
        message: what is wrong, where, and what to do. Commands print it without a traceback.
        hint: name of the option of a command that mends it, see `cli/hints.py`; commands add the option's sentence.
    """

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.hint = hint


class UnreachableError(UserError):
    """A file that does not exist, or that could not be downloaded."""
