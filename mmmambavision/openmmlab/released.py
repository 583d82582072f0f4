"""The released configs' name and arguments for the backbone, so that they run as they are."""
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS

from ..errors import UserError
from ..models.mambavision import MambaVision

# Left over in released configs from the ResNet and Swin configs that they inherit; their code swallows them.
LEFTOVERS = {'depth', 'num_stages', 'frozen_stages', 'norm_cfg', 'norm_eval', 'style', 'init_cfg',
             'pretrain_img_size', 'embed_dims', 'patch_size', 'strides', 'qkv_bias', 'qk_scale', 'patch_norm',
             'drop_rate', 'attn_drop_rate', 'use_abs_pos_embed', 'act_cfg'}
EFFECTIVE_DROP_PATH_RATE = 0.2


@MODELS.register_module(name='MM_mamba_vision')
class MMMambaVision(MambaVision):
    """`MambaVision` behind the released flat arguments, behaving as the released code does.

    Whatever drop path rate a released config asks for, its model was trained with 0.2, and so is this one.

    Args:
        dim, in_dim, depths, num_heads, mlp_ratio, layer_scale: entries of `MambaVision`'s arch.
        window_size: four sides, the first two unused.
        out_indices: as `MambaVision`.
        pretrained: checkpoint to start from, any that `MambaVision`'s init_cfg takes.
        drop_path_rate: not used.
        norm_layer: 'ln2d', the only one there is.
        leftovers: arguments of a ResNet or a Swin, not used; the log says which.

    Raises:
        UserError: (a ValueError) for another norm_layer or arguments that the released configs do not have.
    """

    def __init__(self, dim: int, in_dim: int, depths: Sequence[int], num_heads: Sequence[int],
                 window_size: int | Sequence[int | str | None] | None, mlp_ratio: float = 4.,
                 layer_scale: float | None = None, out_indices: Sequence[int] = (0, 1, 2, 3),
                 pretrained: str | None = None, drop_path_rate: float = EFFECTIVE_DROP_PATH_RATE,
                 norm_layer: str = 'ln2d', **leftovers: Any) -> None:
        if unknown := leftovers.keys() - LEFTOVERS:
            raise UserError("MM_mamba_vision takes the released configs' arguments, which "
                            f"{', '.join(sorted(unknown))} is not among; type='MambaVision' has more options")
        if norm_layer != 'ln2d':
            raise UserError(f"MM_mamba_vision has norm_layer='ln2d' only, got {norm_layer!r}")
        if drop_path_rate != EFFECTIVE_DROP_PATH_RATE:
            print_log(f'MM_mamba_vision: the config asks for drop_path_rate={drop_path_rate}; '
                      f"{EFFECTIVE_DROP_PATH_RATE} is used, as in the released training. type='MambaVision' takes "
                      'any rate', logger='current')
        if leftovers:
            print_log(f"MM_mamba_vision ignores, as the released code does: {', '.join(sorted(leftovers))}",
                      logger='current')
        super().__init__(
            arch=dict(dim=dim, in_dim=in_dim, depths=depths, num_heads=num_heads, mlp_ratio=mlp_ratio,
                      layer_scale=layer_scale),
            window_size=window_size, out_indices=out_indices, drop_path_rate=EFFECTIVE_DROP_PATH_RATE,
            init_cfg=dict(type='Pretrained', checkpoint=pretrained) if pretrained else None)
