"""Describe the machine of a benchmark."""
import torch

from mmmambavision.cli.work.doctor import cpu_name


def describe(device):
    """The name of the GPU, or the name of the CPU with torch's number of threads."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{cpu_name()}, {torch.get_num_threads()} threads'
