"""Reliability features for training, registered in mmengine: see docs/reliability.md."""
from mmengine.config import Config

from . import checkpoints, determinism, images, loss, resume, signals
from .errors import explained
from .lock import hold
from .sharded import use_shards

__all__ = ['explained', 'hold', 'make_safe', 'use_shards']


def make_safe(cfg: Config) -> None:
    """Add the hooks, loops, readers and backends to a config before its Runner is built.

    Explicit settings of the config are kept.
    """
    for part in (images, loss, checkpoints, signals, resume, determinism):
        part.put_into(cfg)
