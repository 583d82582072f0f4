"""What the commands do, once their arguments have been read."""

__all__: list[str] = []
