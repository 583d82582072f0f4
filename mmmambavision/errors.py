class UserError(ValueError):
    """A mistake in a config, a command or a file; its message says what to do, so the tools print that alone."""


class UnreachableError(UserError):
    """A file that is not there, or has to be downloaded and could not be."""


def not_the_file(data):
    """What the first bytes of a file say where Git LFS has left a pointer in the file's place, or None."""
    if data.startswith(b'version https://git-lfs'):
        return "it is a pointer of Git LFS in the file's place: git lfs pull brings the file"
    return None
