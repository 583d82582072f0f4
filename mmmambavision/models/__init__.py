"""The network, in torch alone."""

__all__ = ['classifier', 'mambavision', 'variants']
