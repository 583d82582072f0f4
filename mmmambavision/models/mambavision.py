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
    """Four levels, convolutions in the first two and scans and self-attention in the last two.

    Level i has stride 4 * 2^i and dim * 2^i channels. Parameters carry the names of the released checkpoints.

    Args:
        arch: a preset (tiny, tiny2, small, base, large, large2, large3, or t, t2, s, b, l, l2, l3), or a dict with
            dim, in_dim (stem channels), depths and num_heads (one per level) and, optionally, layer_scale and
            mlp_ratio; for ablations also mixer and pattern, see `mmmambavision.models.variants`.
        window_size: None, the whole map: one window that is exactly the map, whatever its size. An integer, or two for
            levels 2 and 3 (each may be None): windows of that side in tokens, and maps padded to them. Of a released
            4-entry tuple the last two count. ('balanced', n): the whole map but for attention, which is in windows as
            equal as they can be, of at most n x n tokens, so that the cost per pixel does not grow with the map.
        in_channels: channels of the images. Weights for 3 are adapted to any other number when `init_cfg` loads them.
        out_indices: levels to return. Levels beyond the last one are not built.
        drop_path_rate: stochastic depth at the last block, growing linearly from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes the stem, i also the first i levels: no gradients, eval mode.
            The norms on the outputs, which no classification checkpoint has, stay trainable.
        norm_eval: keep batch norms in eval mode in training.
        with_cp: activation checkpointing of every block.
        scan_backend: implementation of the selective scan, see `mmmambavision.ops.selective_scan`.
        init_cfg: dict(type='Pretrained', checkpoint=...), a released checkpoint in any form by path, URL or hf:// name,
            for `init_weights()` to load. Without it, weights are initialised as in the released training.

    Raises:
        UserError: (a ValueError) for arguments that do not describe a network, or an input that is not a float tensor
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
        """Load the weights that `init_cfg` names, if any, in whichever released form they are; mmengine calls this.

        Raises:
            UserError: init_cfg has another form, or the checkpoint cannot be had, or is of another network.
        """
        if not self.init_cfg:
            return
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') != 'Pretrained' or not self.init_cfg.get(
                'checkpoint'):
            raise UserError("init_cfg must be dict(type='Pretrained', checkpoint=<path, URL or hf://owner/repository>) "
                            f'or None for the initialisation of the released training, got {self.init_cfg!r}')
        load_weights(self, self.init_cfg['checkpoint'])
        self.is_init = True  # to mmengine: not again

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in [self.patch_embed, *self.levels[:self.frozen_stages]]:
            module.eval().requires_grad_(False)


class OutNorm(LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W), to the same shape in contiguous memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x.permute(0, 2, 3, 1))
        # Not channels-last: compiled mmcv's RoIAlign reads its input as if it were contiguous, without looking, and
        # torchvision's would copy the pyramid's maps once for every stage of heads (docs/notes.md).
        return x.permute(0, 3, 1, 2).contiguous()


class _UsedTogether(torch.autograd.Function):
    """Maps as they are. One that a head leaves out, as RetinaNet's and FCN's do, gets a gradient of 0 and not none, at
    which distributed training would stop."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(m.view_as(m) for m in maps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # gradients that are missing come as zeros by default

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradients
