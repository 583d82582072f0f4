"""The selective scan of Mamba (arXiv 2312.00752, algorithm 2): one function, one file per implementation."""
from .interface import available_backends, check_backend_name, selective_scan

__all__ = ['available_backends', 'check_backend_name', 'selective_scan']
