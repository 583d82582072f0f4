"""The MambaVision backbone (Hatamizadeh and Kautz, arXiv 2407.08083)."""
import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.weights import load_weights
from ..errors import UserError
from ..ops.selective_scan import check_backend_name
from .blocks import Stem
from .levels import ConvLevel, HybridLevel
from .presets import PRESETS, SHORT_NAMES

NUM_LEVELS = 4


class MambaVision(nn.Module):
    """Four levels, convolutions in the first two and scans and self-attention in the last two.

    Level i has stride 4 * 2^i and dim * 2^i channels. Parameters carry the names of the released checkpoints.

    Args:
        arch: a preset (tiny, tiny2, small, base, large, large2, large3, or t, t2, s, b, l, l2, l3), or a dict with
            dim, in_dim (stem channels), depths and num_heads (one per level) and, optionally, layer_scale and
            mlp_ratio.
        window_size: None, the whole map: one window that is exactly the map, whatever its size. An integer, or two for
            levels 2 and 3 (each may be None): windows of that side in tokens, and maps padded to them. Of a released
            4-entry tuple the last two count.
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

    def __init__(self, arch='tiny', window_size=None, in_channels=3, out_indices=(0, 1, 2, 3), drop_path_rate=0.2,
                 frozen_stages=-1, norm_eval=False, with_cp=False, scan_backend='auto', init_cfg=None):
        super().__init__()
        spec = parse_arch(arch)
        windows = parse_windows(window_size)
        self.out_indices = parse_out_indices(out_indices)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise UserError(f'in_channels must be a positive integer, got {in_channels!r}')
        if not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate must be from 0 to less than 1, got {drop_path_rate!r}')
        if frozen_stages not in range(-1, NUM_LEVELS + 1):
            raise UserError(f'frozen_stages must be from -1 (none) to {NUM_LEVELS} (all), got {frozen_stages!r}')
        check_backend_name(scan_backend)
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.init_cfg = init_cfg

        dim, depths = spec['dim'], spec['depths']
        self.patch_embed = Stem(in_channels, spec['in_dim'], dim)
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        drop_paths = [[next(rates) for _ in range(depth)] for depth in depths]
        self.levels = nn.ModuleList()
        last = max(self.out_indices)
        for i in range(last + 1):
            shared = dict(dim=dim * 2 ** i, drop_paths=drop_paths[i], downsample=i < last, with_cp=with_cp)
            self.levels.append(ConvLevel(**shared) if i < 2 else HybridLevel(
                **shared, num_heads=spec['num_heads'][i], window=windows[i - 2], mlp_ratio=spec.get('mlp_ratio', 4.),
                layer_scale=spec.get('layer_scale'), scan_backend=scan_backend))
            if i in self.out_indices:
                self.add_module(f'outnorm{i}', OutNorm(dim * 2 ** i))
        self.apply(_init_weights)
        self._freeze_stages()

    def forward(self, x):
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UserError(f'this MambaVision takes images (B, {self.in_channels}, H, W), got {tuple(x.shape)}; '
                            'in_channels sets the number of channels (mmdet and mmseg read grey images with 3 by '
                            'default)')
        if not x.is_floating_point():
            raise UserError(f'MambaVision takes normalised images of a float type, got {x.dtype}: subtract the mean '
                            "and divide by the standard deviation first, as a detector's data_preprocessor does")
        zero = self._zero_of_all_norms() if self.training and torch.is_grad_enabled() else None
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        outputs = []
        for i, level in enumerate(self.levels):
            x = level(x)
            if i in self.out_indices:
                outputs.append(getattr(self, f'outnorm{i}')(x, zero))
            if level.downsample is not None:
                x = level.downsample(x)
        return tuple(outputs)

    def _zero_of_all_norms(self):
        """0, and a function of every norm on the outputs.

        Added to their weights, it gives the norm of a map that a head leaves out (RetinaNet's and FCN's do) a gradient
        of 0 instead of none, at which distributed training would stop.
        """
        norms = [getattr(self, f'outnorm{i}') for i in self.out_indices]
        return 0. * sum(parameter.sum() for norm in norms for parameter in norm.parameters())

    def train(self, mode=True):
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self):
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

    def get_layer_depth(self, param_name, prefix=''):
        """Depth of a parameter, as mmpretrain's backbones give it to layer-wise learning rate decay.

        Args:
            param_name: the parameter's name.
            prefix: what stands before the backbone's own names in it.

        Returns:
            The depth, from 0 (the stem) over one for each block to the number of blocks + 1 (norms on the outputs, and
            names that are not the backbone's), and the number of depths.
        """
        blocks = [len(level.blocks) for level in self.levels]
        depths = sum(blocks) + 2
        name = param_name[len(prefix):].split('.') if param_name.startswith(prefix) else ['']
        if name[0] == 'patch_embed':
            return 0, depths
        if name[0] == 'levels':
            level = int(name[1])
            # A downsampling layer belongs to the block before it.
            return sum(blocks[:level]) + (int(name[3]) + 1 if name[2] == 'blocks' else blocks[level]), depths
        return depths - 1, depths

    def _freeze_stages(self):
        if self.frozen_stages < 0:
            return
        for module in [self.patch_embed, *self.levels[:self.frozen_stages]]:
            module.eval().requires_grad_(False)


class OutNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W), to the same shape in contiguous memory."""

    def forward(self, x, zero=None):
        """`zero`, a tensor that is 0, is added to the weight for its gradient's sake."""
        weight = self.weight if zero is None else self.weight + zero
        x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, self.bias, self.eps)
        # Not channels-last: mmcv's RoIAlign reads its input as if it were contiguous, without looking.
        return x.permute(0, 3, 1, 2).contiguous()


def parse_arch(arch):
    """A preset's name or a dict to the dict of the network's sizes.

    Raises:
        UserError: naming what is unknown, missing or does not fit.
    """
    if isinstance(arch, str):
        name = SHORT_NAMES.get(arch, arch)
        if name not in PRESETS:
            raise UserError(f"unknown arch '{arch}': choose one of {', '.join(PRESETS)} (or {', '.join(SHORT_NAMES)}), "
                            'or give a dict with dim, in_dim, depths and num_heads')
        return PRESETS[name]
    required, optional = {'dim', 'in_dim', 'depths', 'num_heads'}, {'layer_scale', 'mlp_ratio'}
    if missing := required - set(arch):
        raise UserError(f"arch lacks {', '.join(sorted(missing))}: it needs {', '.join(sorted(required))}")
    if unknown := set(arch) - required - optional:
        raise UserError(f"arch has unknown {', '.join(sorted(unknown))}: it takes "
                        f"{', '.join(sorted(required | optional))}")
    for key in ('depths', 'num_heads'):
        if len(arch[key]) != NUM_LEVELS or min(arch[key]) < 1:
            raise UserError(f'arch.{key} must be {NUM_LEVELS} positive integers, one per level, got {arch[key]!r}')
    for i in (2, 3):
        if arch['dim'] * 2 ** i % arch['num_heads'][i]:
            raise UserError(f"arch.num_heads[{i}] = {arch['num_heads'][i]} does not divide the {arch['dim'] * 2 ** i} "
                            f'channels of level {i}')
    return dict(arch)


def parse_windows(window_size):
    """Windows of levels 2 and 3, each a positive integer or None, from any form that `window_size` takes."""
    windows = tuple(window_size) if isinstance(window_size, (tuple, list)) else (window_size, window_size)
    if len(windows) == NUM_LEVELS:
        windows = windows[2:]
    if len(windows) != 2 or not all(w is None or (type(w) is int and w > 0) for w in windows):
        raise UserError('window_size must be None for the whole map, a positive integer, or two entries, for levels 2 '
                        f'and 3 (or a released four), each a positive integer or None; got {window_size!r}')
    return windows


def parse_out_indices(out_indices):
    """Levels to return, as a sorted tuple."""
    indices = tuple(sorted(set(out_indices))) if isinstance(out_indices, (tuple, list, range, set)) else ()
    if not indices or not set(indices) <= set(range(NUM_LEVELS)):
        raise UserError('out_indices must be a tuple of some of 0, 1, 2, 3 (the levels), such as (3,), got '
                        f'{out_indices!r}')
    return indices


def _init_weights(module):
    if isinstance(module, nn.Linear):
        # Bounds of 5 standard deviations: at the usual -2 and 2 float32 puts one weight in some millions, by infinity.
        nn.init.trunc_normal_(module.weight, std=.02, a=-.1, b=.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
