"""Checkpoints: read files (`files`), rename tensors (`names`), load weights into a network (`weights`)."""

__all__ = ['files', 'names', 'weights']
