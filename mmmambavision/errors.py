"""Errors that a user can cause and correct."""


class UserError(ValueError):
    """A mistake in a config, a command or a file.

    Args:
        message: what is wrong, where, and what to do. Commands print it without a traceback.
        hints: names of hints in `cli/hints.py`, or None. A hint names the options that correct the error. Commands
            print it after the message.
    """

    def __init__(self, message: str, *hints: str | None) -> None:
        super().__init__(message)
        self.hints = [hint for hint in hints if hint]


class UnreachableError(UserError):
    """A file that does not exist, or that could not be downloaded."""


def not_the_file(data: bytes) -> str | None:
    """An explanation if the first bytes of a file are a Git LFS pointer instead of the file's contents, else None."""
    if data.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer instead of the file. Run git lfs pull to download the file'
    return None
