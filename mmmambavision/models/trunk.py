"""Stem and levels of MambaVision (Hatamizadeh and Kautz, arXiv 2407.08083), shared by backbone and classifier."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UserError
from ..ops.scan import check_backend_name
from .arguments import integer, parse_arch, parse_windows
from .blocks import Stem
from .levels import ConvLevel, HybridLevel
from .variants import choose_mixers


class Trunk(nn.Module):
    """The stem and the first `num_levels` levels.

    Levels 0 and 1 have convolutions. Levels 2 and 3 have scans and self-attention. Level i has stride 4 * 2^i and
    dim * 2^i channels. Parameters have the names of the released checkpoints.

    Args:
        arch, window_size, in_channels, drop_path_rate, with_cp, scan_backend: as in `MambaVision`.
        num_levels: number of levels to build.

    Raises:
        UserError: (a ValueError) for invalid arguments.
    """

    levels: Any  # an nn.ModuleList; its type hides the attributes of the entries

    def __init__(self, arch: str | dict[str, Any], window_size: int | Sequence[int | str | None] | None,
                 in_channels: int, num_levels: int, drop_path_rate: float, with_cp: bool, scan_backend: str) -> None:
        super().__init__()
        spec = parse_arch(arch)
        windows = parse_windows(window_size)
        self.in_channels = integer(in_channels, 1)
        if self.in_channels is None:
            raise UserError(f'in_channels must be a positive integer, got {in_channels!r}')
        if not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate must be at least 0 and less than 1, got {drop_path_rate!r}')
        check_backend_name(scan_backend)
        self.dims = [spec['dim'] * 2 ** i for i in range(num_levels)]
        self.patch_embed = Stem(self.in_channels, spec['in_dim'], spec['dim'])
        rates = iter(np.linspace(0, drop_path_rate, sum(spec['depths'])).tolist())
        mixers = choose_mixers(spec) if {'mixer', 'pattern'} & spec.keys() else (None, None)
        self.levels = nn.ModuleList()
        for i, dim in enumerate(self.dims):
            shared = dict(dim=dim, drop_paths=[next(rates) for _ in range(spec['depths'][i])],
                          downsample=i + 1 < num_levels, with_cp=with_cp)
            self.levels.append(ConvLevel(**shared) if i < 2 else HybridLevel(
                **shared, num_heads=spec['num_heads'][i], window=windows[i - 2], mlp_ratio=spec.get('mlp_ratio', 4.),
                layer_scale=spec.get('layer_scale'), scan_backend=scan_backend, mixers=mixers[i - 2]))
        self.apply(init_as_released)

    def level_maps(self, x: torch.Tensor, count: int | None = None) -> list[torch.Tensor]:
        """The map of each level (B, dim * 2^i, ceil(H / stride), ceil(W / stride)), before its downsampling.

        Args:
            x: images (B, in_channels, H, W).
            count: number of levels to compute; None for all.

        Raises:
            UserError: the input is not a float tensor (B, in_channels, H, W).
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UserError(f'this MambaVision takes images (B, {self.in_channels}, H, W), got {tuple(x.shape)}. Set '
                            'in_channels to the number of channels (mmdet and mmseg read grey images with 3 channels '
                            'by default)')
        if not x.is_floating_point():
            raise UserError(f'MambaVision takes normalised float images, got {x.dtype}. Subtract the mean and divide '
                            "by the standard deviation first, as a detector's data_preprocessor does")
        x, maps = self.patch_embed(x.contiguous(memory_format=torch.channels_last)), []
        for i, level in enumerate(self.levels):
            level_map, x = level(x, downsample=i + 1 != count)
            maps.append(level_map)
            if x is None:
                break
        return maps

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rate decay, with the interface of mmpretrain's backbones.

        Args:
            param_name: name of the parameter.
            prefix: prefix of the backbone in this name.

        Returns:
            The depth and the number of depths. The stem has depth 0 and block n has depth n. Output norms, and names
            without the prefix, have the last depth, number of blocks + 1.
        """
        blocks = [len(level.blocks) for level in self.levels]
        depths = sum(blocks) + 2
        name = param_name[len(prefix):].split('.') if param_name.startswith(prefix) else ['']
        if name[0] == 'patch_embed':
            return 0, depths
        if name[0] == 'levels':
            level = int(name[1])
            # A downsampling layer has the depth of the block before it.
            return sum(blocks[:level]) + (int(name[3]) + 1 if name[2] == 'blocks' else blocks[level]), depths
        return depths - 1, depths


def init_as_released(module: nn.Module) -> None:
    """Initialise a linear layer as in the released training. Other layers keep torch's initialisation."""
    if isinstance(module, nn.Linear):
        # Bounds of 5 standard deviations. With the usual bounds -2 and 2, rounding in float32 turns one weight in some
        # millions into such a bound, because its sample is infinite.
        nn.init.trunc_normal_(module.weight, std=.02, a=-.1, b=.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
