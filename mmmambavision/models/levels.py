"""The two kinds of level, each a stack of blocks on one resolution, with its downsampling; maps to windows and back."""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..ops.transforms import is_exporting
from .balanced import BalancedCut
from .blocks import ConvBlock, Downsample, HybridBlock
from .mixers import Attention, MambaVisionMixer


class Level(nn.Module):
    """Blocks at one resolution, and the downsampling to the next level.

    Called with a map (B, C, H, W), it returns the map that the blocks make of it, of the same shape, and the next
    level's input (B, 2C, ceil(H / 2), ceil(W / 2)), which is None in the last level. Both come from one call, so that
    whatever wraps a level (sharding, offloading) sees every use of its weights.

    Args:
        blocks: the blocks.
        downsample: whether the level has a downsampling layer.
        dim: channels C.
        with_cp: keep only the blocks' inputs for the backward pass and compute the rest again.
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
        """All blocks in a row; of hybrid ones the last leaves the tokens `keep` alone, and attention is in windows of
        `cut`."""
        for block in self.blocks:
            arguments = (x,) if keep is None and cut is None else (x, keep if block is self.blocks[-1] else None, cut)
            x = run_again_later(block, *arguments) if self.with_cp and torch.is_grad_enabled() else block(*arguments)
        return x


class ConvLevel(Level):
    """Level of convolution blocks."""

    def __init__(self, dim, drop_paths, downsample, with_cp=False):
        super().__init__([ConvBlock(dim, rate) for rate in drop_paths], downsample, dim, with_cp)

    def level_map(self, x):
        return self.run_blocks(x)


class HybridLevel(Level):
    """Level of hybrid blocks on windows: MambaVision mixers in the first half, rounded up, then self-attention.

    A map that the window does not divide is zero-padded once, and the padding takes part in every block, as in
    the network that was trained.

    Args:
        window: side of the windows; None for one window that is exactly the map; ('balanced', n) for attention in
            windows of at most n x n tokens, as equal as they can be, and scans over the whole map.
        mixers: classes of the blocks' mixers, one per block, where they are others than those (see `variants.py`).
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
        batch, height, width, channels = x.shape
        if isinstance(self.window, tuple):
            cut = BalancedCut(height, width, self.window[1])
            tokens = x.reshape(batch, height * width, channels)
            x = self.run_blocks(tokens, cut=None if cut.is_whole else cut).reshape(x.shape)
        elif self.window is None:
            x = self.run_blocks(x.reshape(batch, height * width, channels)).reshape(x.shape)
        elif is_exporting():
            x = self._run_on_any_size(x)
        elif max(height, width) <= self.window and (height, width) != (self.window, self.window):
            # One window with padding in it: what the last block makes of the padding reaches no output.
            places = torch.arange(self.window ** 2, device=x.device).view(self.window, -1)[:height, :width].flatten()
            x = self.run_blocks(to_windows(x, self.window), places).reshape(x.shape)
        else:
            x = from_windows(self.run_blocks(to_windows(x, self.window)), self.window, x.shape)
        return x.permute(0, 3, 1, 2)

    def _run_on_any_size(self, x):
        """What `level_map` does, in operations that are the same for every size: with or without padding,
        one window or more.

        Tokens are fetched by their places in windows, -1 where there is padding, and fetched back.
        """
        batch, height, width, channels = x.shape
        area = self.window ** 2
        # Not -(-height // window), which ONNX rounds towards zero.
        rows, columns = ((side + self.window - 1) // self.window for side in (height, width))
        row, column = (torch.arange(side, device=x.device) for side in (height, width))
        window = (row // self.window)[:, None] * columns + column // self.window
        place = (window * area + (row % self.window)[:, None] * self.window + column % self.window).flatten()
        # By way of a tensor, torch forgets how many windows the sample has; it would keep a graph for one
        # window to one.
        count = torch.scalar_tensor(rows * columns, dtype=torch.int64).item()
        torch._check(count >= 1)
        source = torch.full((count * area,), -1, dtype=torch.int64, device=x.device)
        source = source.scatter(0, place, torch.arange(height * width, device=x.device))
        tokens = torch.where((source >= 0)[:, None], x.reshape(batch, height * width, channels)[:, source], 0.)
        tokens = self.run_blocks(tokens.reshape(batch * count, area, channels))
        return tokens.reshape(batch, count * area, channels)[:, place].reshape(x.shape)


def to_windows(x, window):
    """A map (B, H, W, C) to (B * windows, window * window, C), row-major in and between windows.

    It is zero-padded at the right and the bottom so that `window` divides both sides.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window), -(-width // window)
    if (rows * window, columns * window) != (height, width):
        x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    x = x.reshape(batch, rows, window, columns, window, channels)
    return x.transpose(2, 3).reshape(batch * rows * columns, window * window, channels)


def from_windows(tokens, window, size):
    """Inverse of `to_windows`, without the padding, for a map of `size` (B, H, W, C)."""
    batch, height, width, channels = size
    rows, columns = -(-height // window), -(-width // window)
    x = tokens.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return x.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]


def run_again_later(block, *arguments):
    """`block(*arguments)`, of which nothing but the arguments is kept: the backward pass computes it again."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return checkpoint(block, *arguments, use_reentrant=False)
    if torch.compiler.is_compiling() and not any(map(_breaks_graphs, block.modules())):
        # Compiled graphs compute values again and not their effects, and take no contexts.
        return checkpoint(block, *arguments, use_reentrant=False)
    return _run_again_on_copies(block, norms, arguments)


def _breaks_graphs(module):
    """Whether a module may end a compiled graph: a batch norm that averages over all batches does, and hooks may."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or (
        isinstance(module, _BatchNorm) and module.momentum is None)


@torch.compiler.disable
def _run_again_on_copies(block, norms, arguments):
    return checkpoint(block, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _OnCopies(norms)))


class _OnCopies:
    """Context, entered as often as need be, in which batch norms count on copies: each batch has been
    counted already."""

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
