"""The selective scan of Mamba (arXiv 2312.00752, algorithm 2): one function, one file per implementation."""
from .interface import available_backends, selective_scan

__all__ = ['available_backends', 'selective_scan']
