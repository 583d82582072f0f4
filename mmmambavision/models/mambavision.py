"""The MambaVision backbone (Hatamizadeh and Kautz, arXiv 2407.08083)."""
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from ..checkpoints.weights import load_weights
from ..errors import UserError
from .arguments import NUM_LEVELS, integer, parse_out_indices
from .blocks import LayerNorm
from .trunk import Trunk


class MambaVision(Trunk):
    """The MambaVision backbone with four levels.

    Levels 0 and 1 have convolutions. Levels 2 and 3 have scans and self-attention. Level i has stride 4 * 2^i and
    dim * 2^i channels. Parameters have the names of the released checkpoints.

    Args:
        arch: a preset (tiny, tiny2, small, base, large, large2, large3, or t, t2, s, b, l, l2, l3), or a dict with
            dim, in_dim (stem channels), depths and num_heads (one per level). Optional keys are layer_scale and
            mlp_ratio, and for ablations mixer and pattern (see `mmmambavision.models.variants`).
        window_size: None: one window for the whole map, without padding. An integer, or two for levels 2 and 3 (each
            can be None): side of the windows in tokens, with padded maps. For a released 4-entry tuple, only the last
            two are used. ('balanced', n): scans over the whole map, and attention in windows of nearly equal size with
            at most n x n tokens, so the cost per pixel does not grow with the map.
        in_channels: channels of the images. `init_cfg` adapts weights for 3 channels to any other number.
        out_indices: levels to return. Levels after the last index are not built.
        drop_path_rate: rate of stochastic depth at the last block. It grows linearly from 0 at the first block.
        frozen_stages: -1 trains everything, 0 freezes the stem, i also freezes the first i levels (no gradients, eval
            mode). Output norms stay trainable, because no classification checkpoint has them.
        norm_eval: keep batch norms in eval mode during training.
        with_cp: activation checkpointing of every block.
        scan_backend: implementation of the selective scan, see `mmmambavision.ops.selective_scan`.
        init_cfg: dict(type='Pretrained', checkpoint=...) with a path, URL or hf:// name of a checkpoint for
            `init_weights()`. Without it, weights are initialised as in the released training.

    Raises:
        UserError: (a ValueError) for invalid arguments, or for an input that is not a float tensor
            (B, in_channels, H, W).

    Shape:
        (B, in_channels, H, W), any H and W, to a tuple of (B, dim * 2^i, ceil(H / stride), ceil(W / stride)), one per
        out index.
    """

    def __init__(self, arch: str | dict[str, Any] = 'tiny', window_size: int | Sequence[int | str | None] | None = None,
                 in_channels: int = 3, out_indices: Sequence[int] = (0, 1, 2, 3), drop_path_rate: float = 0.2,
                 frozen_stages: int = -1, norm_eval: bool = False, with_cp: bool = False, scan_backend: str = 'auto',
                 init_cfg: dict[str, Any] | None = None) -> None:
        out_indices = parse_out_indices(out_indices)
        if (frozen := integer(frozen_stages, -1, NUM_LEVELS)) is None:
            raise UserError(f'frozen_stages must be from -1 (none) to {NUM_LEVELS} (all), got {frozen_stages!r}')
        super().__init__(arch, window_size, in_channels, 1 + max(out_indices), drop_path_rate, with_cp, scan_backend)
        self.out_indices = out_indices
        self.frozen_stages = frozen
        self.norm_eval = norm_eval
        self.init_cfg = init_cfg
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', OutNorm(self.dims[i]))
        self._freeze_stages()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.level_maps(x)
        outputs = tuple(getattr(self, f'outnorm{i}')(maps[i]) for i in self.out_indices)
        return _UsedTogether.apply(*outputs) if self.training and torch.is_grad_enabled() else outputs

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Load the weights of `init_cfg`, if it is set. mmengine calls this.

        Raises:
            UserError: init_cfg is invalid, or the checkpoint cannot be loaded or is of another network.
        """
        if not self.init_cfg:
            return
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') != 'Pretrained' or not self.init_cfg.get(
                'checkpoint'):
            raise UserError("init_cfg must be dict(type='Pretrained', checkpoint=<path, URL or hf://owner/repository>) "
                            f'or None for the initialisation of the released training, got {self.init_cfg!r}')
        load_weights(self, self.init_cfg['checkpoint'])
        self.is_init = True  # tells mmengine not to initialise again

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in [self.patch_embed, *self.levels[:self.frozen_stages]]:
            module.eval().requires_grad_(False)


class OutNorm(LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W). The output has the same shape and is contiguous."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x.permute(0, 2, 3, 1))
        # Not channels-last: compiled mmcv's RoIAlign assumes contiguous input without a check, and torchvision's
        # RoIAlign would copy the maps of the pyramid for every stage of heads (docs/notes.md).
        return x.permute(0, 3, 1, 2).contiguous()


class _UsedTogether(torch.autograd.Function):
    """Identity. A map that the head does not use gets a zero gradient instead of no gradient.

    Heads of RetinaNet and FCN do not use all maps. Distributed training would stop at parameters without gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(m.view_as(m) for m in maps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # torch replaces missing gradients by zeros

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradients
