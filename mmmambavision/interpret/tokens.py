"""Blocks by name, and what goes into their token mixers."""
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import UserError
from ..models.trunk import Trunk
from ..models.windows import WholeMap, windows_of


def trunk_of(model: nn.Module) -> Trunk:
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
    index: int  # type: ignore[assignment]  # hides tuple.index
    mixer: Any

    @property
    def name(self) -> str:
        return f'{self.level}.{self.index}'

    @property
    def stride(self) -> int:
        """Pixels per token."""
        return 4 * 2 ** self.level

    @torch.no_grad()
    def run(self, images: torch.Tensor, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor, WholeMap]:
        """Run images (B, 3, H, W) through the network's levels up to this one.

        Returns:
            The first argument and the output of `module`, a part of the block, and the windows of the level's map (see
            `models/windows.py`).
        """
        calls = []
        handle = module.register_forward_hook(lambda _, arguments, output: calls.append((arguments[0], output)))
        try:
            maps = self.trunk.level_maps(images, self.level + 1)
        finally:
            handle.remove()
        (tokens, output), = calls
        level = self.trunk.levels[self.level]
        height, width = maps[self.level].shape[2:]
        return tokens, output, windows_of(level.window, height, width, images.device)


def find_block(trunk: Trunk, kind: type[nn.Module], name: str | None = None) -> Block:
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
