"""Checkpoints: from a name to a dict (`files`), from a dict to the parameters of a network (`weights`)."""

__all__ = ['files', 'names', 'weights']
