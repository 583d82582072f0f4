"""Depthwise convolution with three taps and SiLU, of tokens: one function, one file per implementation."""
from .interface import available_backends, depthwise_silu

__all__ = ['available_backends', 'depthwise_silu']
