"""Softmax attention (Vaswani et al. 2017, eq. 1): one function, one file per implementation."""
from .interface import attention, available_backends

__all__ = ['attention', 'available_backends']
