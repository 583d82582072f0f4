"""The ImageNet classifiers (arXiv 2407.08083, table 1)."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .arguments import NUM_LEVELS
from .trunk import Trunk, init_as_released


class MambaVisionClassifier(Trunk):
    """Stem and levels of `MambaVision`, batch norm, global average pooling and a linear layer.

    Parameters have the names of the released checkpoints. The methods follow timm's models.

    Args:
        arch, window_size, in_channels, drop_path_rate, with_cp, scan_backend: as in `MambaVision`. The window sizes of
            the released classifiers are 1/16 and 1/32 of the image side: 14 and 7 at 224.
        num_classes: number of outputs; 0 for pooled features without a linear layer.
        drop_rate: dropout before the linear layer.
        global_pool: 'avg', or '' for no pooling, with the output (B, 8 dim, ceil(H / 32), ceil(W / 32)).

    Shape:
        (B, in_channels, H, W), any H and W, to logits (B, num_classes).
    """

    global_pool: str
    norm: Any  # nn.BatchNorm2d, or nn.Identity after pruning

    def __init__(self, arch: str | dict[str, Any] = 'tiny', num_classes: int = 1000,
                 window_size: int | Sequence[int | str | None] | None = None, in_channels: int = 3,
                 drop_path_rate: float = 0.2, drop_rate: float = 0., with_cp: bool = False, scan_backend: str = 'auto',
                 global_pool: str = 'avg') -> None:
        super().__init__(arch, window_size, in_channels, NUM_LEVELS, drop_path_rate, with_cp, scan_backend)
        self.in_chans, self.num_features, self.head_hidden_size = in_channels, self.dims[-1], self.dims[-1]
        self.norm = nn.BatchNorm2d(self.num_features)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The map of the last level after batch norm (B, 8 dim, ceil(H / 32), ceil(W / 32))."""
        return self.norm(self.level_maps(x)[-1])

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, num_classes) of a map from `forward_features`, or with pre_logits the pooled map (B, 8 dim)."""
        if self.num_classes and not (self.global_pool or pre_logits):
            raise ValueError(f"{self.num_classes} classes need a pooled map. Set global_pool='avg', or num_classes=0")
        pooled = self.drop(x.mean((2, 3)) if self.global_pool else x)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer; 0 classes remove it. `global_pool` as in the constructor, None for no change.

        Raises:
            ValueError: global_pool is invalid.
        """
        if global_pool not in (None, 'avg', ''):
            raise ValueError(f"global_pool must be 'avg', the mean over the map, or '' for none; got {global_pool!r}")
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(self.norm.weight.device, self.norm.weight.dtype).train(self.training).apply(init_as_released)

    def forward_intermediates(
            self, x: torch.Tensor, indices: int | Sequence[int] | None = None, norm: bool = False,
            stop_early: bool = False, output_fmt: str = 'NCHW', intermediates_only: bool = False
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """The output of `forward_features`, and the maps of the levels.

        Args:
            x: images (B, in_channels, H, W).
            indices: a sequence of levels; or n for the last n levels; or None for all.
            norm: whether to apply the batch norm to the map of the last level.
            stop_early: whether to skip the levels after the last index. Then the first output is the last computed map.
            output_fmt: must be 'NCHW'.
            intermediates_only: return only the maps.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        indices = self.level_indices(indices)
        maps = self.level_maps(x, 1 + max(indices) if stop_early else None)
        if len(maps) == NUM_LEVELS and norm:
            maps = [*maps[:-1], self.norm(maps[-1])]
        intermediates = [maps[i] for i in indices]
        if intermediates_only:
            return intermediates
        return (maps[-1] if norm or len(maps) < NUM_LEVELS else self.norm(maps[-1])), intermediates

    def prune_intermediate_layers(self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> list[int]:
        """Remove levels after the last index, and optionally the norm and the linear layer. Returns the indices."""
        indices = self.level_indices(indices)
        self.levels = self.levels[:1 + max(indices)]
        self.levels[-1].downsample = None
        if prune_norm or len(self.levels) < NUM_LEVELS:
            self.norm = nn.Identity()
        if prune_head:
            self.num_classes, self.head = 0, nn.Identity()
        return indices

    def level_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """A list of level indices from 0. `indices` is a sequence (negative values count from the end), n for the last
        n levels, or None for all."""
        count = len(self.levels)
        chosen = range(count) if indices is None else indices
        chosen = range(count)[-chosen:] if isinstance(chosen, int) and 0 < chosen <= count else chosen
        chosen = [] if isinstance(chosen, int) else [i + count if i < 0 else i for i in chosen]
        if not chosen or not set(chosen) <= set(range(count)):
            raise ValueError(f'indices must be levels from 0 to {count - 1} or a number of levels, got {indices!r}')
        return chosen

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and name of each level, in timm's format."""
        return [dict(num_chs=dim, reduction=4 * 2 ** i, module=f'levels.{i}') for i, dim in enumerate(self.dims)]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activation checkpointing of every block."""
        for level in self.levels:
            level.with_cp = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Extra parameters without weight decay: none, as in the released training. timm excludes biases and norms."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by layer, for layer-wise learning rates. `coarse` groups by level."""
        blocks = r'^levels\.(\d+)' if coarse else [
            (r'^levels\.(\d+)\.downsample', (99999,)), (r'^levels\.(\d+)\.blocks\.(\d+)', None), (r'^norm', (99999,))]
        return dict(stem=r'^patch_embed', blocks=blocks)
