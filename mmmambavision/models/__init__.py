"""The network. It needs only torch."""

__all__ = ['classifier', 'mambavision', 'variants']
