from .attention import attention
from .selective_scan import available_backends, selective_scan

__all__ = ['attention', 'available_backends', 'selective_scan']
