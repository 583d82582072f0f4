"""Deterministic runs: operators that have no deterministic form warn and go on."""
import os

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..configs import add_hook


@HOOKS.register_module()
class WarnOnlyDeterminismHook(Hook):
    """Under `randomness=dict(deterministic=True)`, have torch warn of non-deterministic operators. mmengine has torch
    raise an error, with which detectors on a GPU stop at the gradient of RoIAlign or grid_sample."""
    priority = 'VERY_HIGH'

    def before_run(self, runner):
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)
            runner.logger.warning('deterministic=True: torch warns of each operator that is not deterministic and goes '
                                  'on; docs/reliability.md lists them')


def put_into(cfg):
    """Add the hook to a config that asks for deterministic algorithms, and give cuBLAS the workspace that it needs for
    them, which has to be named before it starts."""
    if (cfg.get('randomness') or {}).get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        add_hook(cfg, 'WarnOnlyDeterminismHook')
