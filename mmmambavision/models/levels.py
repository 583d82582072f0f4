"""The two kinds of level, each a stack of blocks on one resolution, with its downsampling."""
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import ConvBlock, Downsample, HybridBlock
from .windows import from_windows, pad_to_windows, to_windows


class Level(nn.Module):
    """Blocks at one resolution; called with a map (B, C, H, W), returns the map that the blocks make of it, same shape.

    Args:
        blocks: the blocks.
        downsample: whether `self.downsample` shall take the map to the next level's (B, 2C, ceil(H / 2), ceil(W / 2)).
        dim: channels C.
        with_cp: keep only the blocks' inputs for the backward pass and compute the rest again.
    """

    def __init__(self, blocks, downsample, dim, with_cp=False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = Downsample(dim) if downsample else None
        self.with_cp = with_cp

    def run_blocks(self, x, *last):
        """All blocks in a row; `last` are further arguments of the last one."""
        for block in self.blocks:
            arguments = (x, *last) if block is self.blocks[-1] else (x,)
            if self.with_cp and x.requires_grad:
                x = checkpoint(block, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _once(block)))
            else:
                x = block(*arguments)
        return x


class ConvLevel(Level):
    """Level of convolution blocks."""

    def __init__(self, dim, drop_paths, downsample, with_cp=False):
        super().__init__([ConvBlock(dim, rate) for rate in drop_paths], downsample, dim, with_cp)

    def forward(self, x):
        return self.run_blocks(x)


class HybridLevel(Level):
    """Level of hybrid blocks on windows: MambaVision mixers in the first half, rounded up, then self-attention.

    A map that the window does not divide is zero-padded once, and the padding takes part in every block, as in
    the network that was trained.

    Args:
        window: side of the windows; None for one window that is exactly the map.
    """

    def __init__(self, dim, drop_paths, downsample, num_heads, window, mlp_ratio, layer_scale, scan_backend,
                 with_cp=False):
        depth = len(drop_paths)
        super().__init__(
            [HybridBlock(dim, None if j < (depth + 1) // 2 else num_heads, mlp_ratio, drop_paths[j], layer_scale,
                         scan_backend) for j in range(depth)],
            downsample, dim, with_cp)
        self.window = window

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = pad_to_windows(x.permute(0, 2, 3, 1), self.window)
        padded = x.shape[1:3]
        if padded == (self.window, self.window) != (height, width):
            # One window with padding in it: what the last block makes of the padding reaches no output.
            places = torch.arange(padded[0] * padded[1], device=x.device).view(padded)[:height, :width].flatten()
            x = self.run_blocks(x.flatten(1, 2), places).reshape(batch, height, width, channels)
        else:
            x = from_windows(self.run_blocks(to_windows(x, self.window)), self.window, padded)[:, :height, :width]
        return x.permute(0, 3, 1, 2)


@contextmanager
def _once(block):
    """Keep batch norms from counting a batch twice when checkpointing computes it again."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
