class UserError(ValueError):
    """A mistake in a config, a command or a file; its message says what to do, so the tools print that alone."""
