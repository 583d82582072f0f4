"""Find blocks by name, and record the inputs of their token mixers."""
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import UserError
from ..models.trunk import Trunk
from ..models.windows import WholeMap, windows_of


def trunk_of(model: nn.Module) -> Trunk:
    """The MambaVision backbone or classifier in a model.

    Raises:
        UserError: the model has no MambaVision.
    """
    trunk = next((module for module in model.modules() if isinstance(module, Trunk)), None)
    if trunk is None:
        raise UserError(f'the model, a {type(model).__name__}, has no MambaVision. Its backbone must be '
                        "type='MambaVision' or 'MM_mamba_vision'")
    return trunk


class Block(NamedTuple):
    """A block of the last two levels: network, level index, block index and token mixer."""
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
        """Run images (B, 3, H, W) through the network up to the level of this block.

        Returns:
            The input and output of `module`, a part of the block, and the windows of the level's map (see
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
    """Find a block by the class of its mixer and by its name.

    Args:
        trunk: the network.
        kind: class of the mixer, `Attention` or `MambaVisionMixer`.
        name: level and block index, for example '2.3'. None for the last block of level 2 with this mixer, or the last
            block of all levels if level 2 has none.

    Raises:
        UserError: the block does not exist or has another mixer. The message lists the blocks with this mixer.
    """
    blocks = [Block(trunk, i, j, block.mixer) for i, level in enumerate(trunk.levels)
              for j, block in enumerate(level.blocks) if isinstance(getattr(block, 'mixer', None), kind)]
    if not blocks:
        raise UserError(f'this network with {len(trunk.levels)} levels has no block with {kind.__name__}')
    if name is None:
        return ([block for block in blocks if block.level == 2] or blocks)[-1]
    named = {block.name: block for block in blocks}
    if name not in named:
        raise UserError(f"'{name}' is not a block with {kind.__name__}. Choose one of {', '.join(named)} (level.block)")
    return named[name]
