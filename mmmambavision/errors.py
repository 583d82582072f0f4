class UserError(ValueError):
    """A mistake in a config, a command or a file; its message says what to do, so the tools print that alone."""


class UnreachableError(UserError):
    """A file that is not there, or has to be downloaded and could not be."""
