"""Errors that a user can cause and mend."""


class UserError(ValueError):
    """A mistake in a config, a command or a file.

    Args:
        message: what is wrong, where, and what to do. Commands print it without a traceback.
        hints: names of sentences in `cli/hints.py`, which commands add: the options that mend it. None is left out.
    """

    def __init__(self, message: str, *hints: str | None) -> None:
        super().__init__(message)
        self.hints = [hint for hint in hints if hint]


class UnreachableError(UserError):
    """A file that does not exist, or that could not be downloaded."""


def not_the_file(data: bytes) -> str | None:
    """What the first bytes of a file say where Git LFS has left a pointer in the file's place, or None."""
    if data.startswith(b'version https://git-lfs'):
        return "it is a pointer of Git LFS in the file's place: git lfs pull brings the file"
    return None
