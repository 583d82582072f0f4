"""Errors that a user can cause and mend."""


class UserError(ValueError):
    """A mistake in a config, a command or a file.

    Args:
        message: what is wrong, where, and what to do. Commands print it without a traceback.
        hints: names of sentences in `cli/hints.py`, which commands add: the options that mend it. None is left out.
    """

    def __init__(self, message: str, *hints: str | None):
        super().__init__(message)
        self.hints = [hint for hint in hints if hint]


class UnreachableError(UserError):
    """A file that does not exist, or that could not be downloaded."""
