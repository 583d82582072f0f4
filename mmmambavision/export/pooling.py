"""Average pooling to a fixed size that exported graphs do for any size; torch's keeps the sample's."""
import torch
from torch import nn


class AdaptiveAvgPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two products with averaging matrices, (B, C, H, W) to (B, C, *size)."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        rows, columns = (_average(length, bins, x) for length, bins in zip(x.shape[2:], self.size))
        return rows @ x @ columns.T


def _average(length, bins, like):
    """Matrix (bins, length) whose rows average over the bins that torch's pooling has: from floor(i n / k) on and to
    before ceil((i + 1) n / k)."""
    bin = torch.arange(bins, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    inside = (place >= bin * length // bins) & (place < ((bin + 1) * length + bins - 1) // bins)
    inside = inside.to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def replace_adaptive_pooling(module):
    """Put `AdaptiveAvgPool` in the place of every `nn.AdaptiveAvgPool2d` in a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size = child.output_size
            setattr(module, name, AdaptiveAvgPool((size, size) if isinstance(size, int) else size))
        else:
            replace_adaptive_pooling(child)
