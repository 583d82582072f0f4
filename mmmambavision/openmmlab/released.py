"""The backbone under the name and arguments of the released configs, so that these configs run unchanged."""
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS

from ..errors import UserError
from ..models.mambavision import MambaVision

# The released configs inherit these from ResNet and Swin configs. The released code ignores them.
LEFTOVERS = {'depth', 'num_stages', 'frozen_stages', 'norm_cfg', 'norm_eval', 'style', 'init_cfg',
             'pretrain_img_size', 'embed_dims', 'patch_size', 'strides', 'qkv_bias', 'qk_scale', 'patch_norm',
             'drop_rate', 'attn_drop_rate', 'use_abs_pos_embed', 'act_cfg'}
EFFECTIVE_DROP_PATH_RATE = 0.2


@MODELS.register_module(name='MM_mamba_vision')
class MMMambaVision(MambaVision):
    """`MambaVision` with the flat arguments and the behaviour of the released code.

    The released code always uses a drop path rate of 0.2 and ignores the rate in the config. So does this class.

    Args:
        dim, in_dim, depths, num_heads, mlp_ratio, layer_scale: entries of `MambaVision`'s arch.
        window_size: four sides; the first two are ignored.
        out_indices: as in `MambaVision`.
        pretrained: checkpoint for the initial weights, as in `MambaVision`'s init_cfg.
        drop_path_rate: ignored.
        norm_layer: must be 'ln2d'.
        leftovers: arguments of ResNet or Swin, ignored with a log message.

    Raises:
        UserError: (a ValueError) for another norm_layer or for arguments that the released configs do not have.
    """

    def __init__(self, dim: int, in_dim: int, depths: Sequence[int], num_heads: Sequence[int],
                 window_size: int | Sequence[int | str | None] | None, mlp_ratio: float = 4.,
                 layer_scale: float | None = None, out_indices: Sequence[int] = (0, 1, 2, 3),
                 pretrained: str | None = None, drop_path_rate: float = EFFECTIVE_DROP_PATH_RATE,
                 norm_layer: str = 'ln2d', **leftovers: Any) -> None:
        if unknown := leftovers.keys() - LEFTOVERS:
            raise UserError("MM_mamba_vision takes only the released configs' arguments, not "
                            f"{', '.join(sorted(unknown))}. type='MambaVision' has more options")
        if norm_layer != 'ln2d':
            raise UserError(f"MM_mamba_vision supports only norm_layer='ln2d', got {norm_layer!r}")
        if drop_path_rate != EFFECTIVE_DROP_PATH_RATE:
            print_log(f'MM_mamba_vision: drop_path_rate={drop_path_rate} of the config is ignored; '
                      f"{EFFECTIVE_DROP_PATH_RATE} is used, as in the released training. type='MambaVision' takes "
                      'any rate', logger='current')
        if leftovers:
            print_log(f"MM_mamba_vision ignores these arguments, as the released code: {', '.join(sorted(leftovers))}",
                      logger='current')
        super().__init__(
            arch=dict(dim=dim, in_dim=in_dim, depths=depths, num_heads=num_heads, mlp_ratio=mlp_ratio,
                      layer_scale=layer_scale),
            window_size=window_size, out_indices=out_indices, drop_path_rate=EFFECTIVE_DROP_PATH_RATE,
            init_cfg=dict(type='Pretrained', checkpoint=pretrained) if pretrained else None)
