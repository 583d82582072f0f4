"""Describe the machine of a benchmark."""
import platform
from pathlib import Path

import torch


def describe(device):
    """The name of the GPU, or the name of the CPU with torch's number of threads."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{_cpu_name()}, {torch.get_num_threads()} threads'


def _cpu_name():
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] \
        if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()
