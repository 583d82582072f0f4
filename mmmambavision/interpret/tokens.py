"""Blocks by name, what goes into their token mixers, and where tokens lie: in windows and on the map."""
from typing import NamedTuple

import torch
from torch import nn

from ..errors import UserError
from ..models.levels import from_windows, to_windows
from ..models.trunk import Trunk


def trunk_of(model):
    """The MambaVision, backbone or classifier, in a model.

    Raises:
        UserError: there is none.
    """
    trunk = next((module for module in model.modules() if isinstance(module, Trunk)), None)
    if trunk is None:
        raise UserError(f'the model, a {type(model).__name__}, has no MambaVision in it: its backbone has to be '
                        "type='MambaVision' or 'MM_mamba_vision'")
    return trunk


class Block(NamedTuple):
    """A block of the last two levels: its network, indices of level and block, token mixer."""
    trunk: Trunk
    level: int
    index: int
    mixer: nn.Module

    @property
    def name(self):
        return f'{self.level}.{self.index}'

    @property
    def stride(self):
        """Pixels per token."""
        return 4 * 2 ** self.level

    @property
    def window(self):
        """Side of the windows, None for the whole map."""
        return self.trunk.levels[self.level].window

    @torch.no_grad()
    def run(self, images, module):
        """Run images (B, 3, H, W) through the network's levels up to this one.

        Returns:
            The first argument and the output of `module`, a part of the block, and the map's size (height, width).
        """
        calls = []
        handle = module.register_forward_hook(lambda _, arguments, output: calls.append((arguments[0], output)))
        try:
            maps = self.trunk.level_maps(images, self.level + 1)
        finally:
            handle.remove()
        (tokens, output), = calls
        return tokens, output, maps[self.level].shape[2:]


def find_block(trunk, kind, name=None):
    """A block by its mixer and by the indices of level and block in the names of parameters.

    Args:
        trunk: the network.
        kind: class of the mixer, `Attention` or `MambaVisionMixer`.
        name: such as '2.3'; None for the last block of level 2 with such a mixer or, where it has none, of all.

    Raises:
        UserError: the block does not exist or has another mixer; says which have this one.
    """
    blocks = [Block(trunk, i, j, block.mixer) for i, level in enumerate(trunk.levels)
              for j, block in enumerate(level.blocks) if isinstance(getattr(block, 'mixer', None), kind)]
    if not blocks:
        raise UserError(f'no block of this network, which has {len(trunk.levels)} levels, has {kind.__name__}')
    if name is None:
        return ([block for block in blocks if block.level == 2] or blocks)[-1]
    named = {block.name: block for block in blocks}
    if name not in named:
        raise UserError(f"'{name}' is no block with {kind.__name__}: choose one of {', '.join(named)} (level.block)")
    return named[name]


def place(token, window, size):
    """Where a token (row, column) of a map of `size` is: number of its window and index in its sequence."""
    row, column = token
    if window is None:
        return 0, row * size[1] + column
    columns = -(-size[1] // window)
    return row // window * columns + column // window, row % window * window + column % window


def to_map(values, window, size):
    """Values of the tokens of one image (windows, L, K) to a map (K, height, width), padding cut off."""
    height, width = size
    if window is None:
        return values.reshape(height, width, -1).permute(2, 0, 1)
    return from_windows(values, window, (1, height, width, values.shape[2]))[0].permute(2, 0, 1)


def not_padding(window, size, device):
    """Which tokens of one image are on the map, (windows, L) boolean."""
    ones = torch.ones(1, *size, 1, device=device)
    return (ones.flatten(1, 2) if window is None else to_windows(ones, window))[..., 0] > 0
