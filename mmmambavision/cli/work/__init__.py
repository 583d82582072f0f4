"""Implementations of the commands."""

__all__: list[str] = []
