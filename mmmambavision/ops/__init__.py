"""Operators of the network: the selective scan, attention, and the depthwise convolution of the mixers."""
from .attn import attention
from .depthwise import depthwise_silu
from .registry import backend
from .scan import available_backends, selective_scan

__all__ = ['attention', 'available_backends', 'backend', 'depthwise_silu', 'selective_scan']
