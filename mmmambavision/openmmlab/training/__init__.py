"""What keeps a training safe from bad data, bad losses and a machine that fails."""
from .errors import explained
from .images import name_unreadable_files
from .lock import hold
from .loss import InvalidLossHook, stop_at_invalid_loss

__all__ = ['InvalidLossHook', 'explained', 'hold', 'make_safe']


def make_safe(cfg):
    """Put into a config what keeps its training safe; whatever the config sets itself stays."""
    name_unreadable_files(cfg)
    stop_at_invalid_loss(cfg)
