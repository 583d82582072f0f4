"""The two types of levels: convolution levels and hybrid levels. A level is a stack of blocks with downsampling."""
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import ConvBlock, Downsample, HybridBlock
from .mixers import Attention, MambaVisionMixer
from .windows import windows_of


class Level(nn.Module):
    """Blocks at one resolution, and the downsampling to the next level.

    The input is a map (B, C, H, W). The output is the map after the blocks (B, C, H, W), and the input of the next
    level (B, 2C, ceil(H / 2), ceil(W / 2)), or None for the last level. One call returns both, so that wrappers of a
    level (sharding, offloading) see every use of its weights.

    Args:
        blocks: the blocks.
        downsample: whether the level has a downsampling layer.
        dim: channels C.
        with_cp: activation checkpointing: store only the blocks' inputs, and recompute the rest in the backward pass.
    """

    def __init__(self, blocks, downsample, dim, with_cp=False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = Downsample(dim) if downsample else None
        self.with_cp = with_cp

    def forward(self, x, downsample=True):
        x = self.level_map(x)
        return x, self.downsample(x) if downsample and self.downsample is not None else None

    def run_blocks(self, x, keep=None, cut=None):
        """Run all blocks. `keep` (only for the last block) and `cut` are arguments of `HybridBlock.forward`."""
        for block in self.blocks:
            arguments = (x,) if keep is None and cut is None else (x, keep if block is self.blocks[-1] else None, cut)
            x = recomputed(block, *arguments) if self.with_cp and torch.is_grad_enabled() else block(*arguments)
        return x


class ConvLevel(Level):
    """Level of convolution blocks."""

    def __init__(self, dim, drop_paths, downsample, with_cp=False):
        super().__init__([ConvBlock(dim, rate) for rate in drop_paths], downsample, dim, with_cp)

    def level_map(self, x):
        return self.run_blocks(x)


class HybridLevel(Level):
    """Level of hybrid blocks: MambaVision mixers in the first half (rounded up), then self-attention.

    Args:
        window: side of the windows; None for one window over the whole map; ('balanced', n) for scans over the whole
            map and attention in windows of nearly equal size with at most n x n tokens.
        mixers: mixer classes, one per block, to replace the default order (see `variants.py`).
    """

    def __init__(self, dim, drop_paths, downsample, num_heads, window, mlp_ratio, layer_scale, scan_backend,
                 with_cp=False, mixers=None):
        depth = len(drop_paths)
        mixers = mixers or [MambaVisionMixer] * (depth - depth // 2) + [Attention] * (depth // 2)
        super().__init__(
            [HybridBlock(dim, num_heads if mixer is Attention else None, mlp_ratio, rate, layer_scale, scan_backend,
                         mixer) for mixer, rate in zip(mixers, drop_paths, strict=True)],
            downsample, dim, with_cp)
        self.window = window

    def level_map(self, x):
        x = x.permute(0, 2, 3, 1)
        windows = windows_of(self.window, *x.shape[1:3], x.device)
        return windows.to_map(self.run_blocks(windows.to_tokens(x), windows.kept, windows.cut)).permute(0, 3, 1, 2)


def recomputed(block, *arguments):
    """`block(*arguments)` with activation checkpointing: the backward pass recomputes the block."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return checkpoint(block, *arguments, use_reentrant=False)
    if torch.compiler.is_compiling() and not any(map(_breaks_graphs, block.modules())):
        # Compiled graphs recompute values without side effects, and do not support context_fn.
        return checkpoint(block, *arguments, use_reentrant=False)
    return _recompute_with_copies(block, norms, arguments)


def _breaks_graphs(module):
    """Whether a module can break a compiled graph: hooks, or a batch norm with a cumulative average."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or (
        isinstance(module, _BatchNorm) and module.momentum is None)


@torch.compiler.disable
def _recompute_with_copies(block, norms, arguments):
    return checkpoint(block, *arguments, use_reentrant=False,
                      context_fn=lambda: (nullcontext(), _BatchNormCopies(norms)))


class _BatchNormCopies:
    """Context for recomputation: batch norms update copies of their running statistics, so each batch counts once.
    The context is reentrant."""

    def __init__(self, norms):
        self.norms = norms
        self.originals = []

    def __enter__(self):
        self.originals.append([dict(norm._buffers) for norm in self.norms])
        for norm in self.norms:
            norm._buffers.update({name: None if value is None else value.clone()
                                  for name, value in norm._buffers.items()})

    def __exit__(self, *_):
        for norm, buffers in zip(self.norms, self.originals.pop()):
            norm._buffers.update(buffers)
