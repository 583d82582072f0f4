"""Deterministic training: operators without a deterministic implementation warn instead of raising an error."""
import os

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..configs import add_hook


@HOOKS.register_module()
class WarnOnlyDeterminismHook(Hook):
    """With `randomness=dict(deterministic=True)`, make torch warn about non-deterministic operators.

    mmengine makes torch raise an error. Detectors on a GPU would then stop at the gradient of RoIAlign or grid_sample.
    """
    priority = 'VERY_HIGH'

    def before_run(self, runner):
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)
            runner.logger.warning('deterministic=True: torch warns about operators that are not deterministic and '
                                  'continues. docs/reliability.md lists these operators')


def put_into(cfg):
    """Add the hook to a config with deterministic=True, and set the cuBLAS workspace.

    cuBLAS reads the workspace setting when it starts.
    """
    if (cfg.get('randomness') or {}).get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        add_hook(cfg, 'WarnOnlyDeterminismHook')
