"""What keeps a training safe, as parts that mmengine's registries know; docs/reliability.md is about them."""
from mmengine.config import Config

from . import checkpoints, determinism, images, loss, resume, signals
from .errors import explained
from .lock import hold

__all__ = ['explained', 'hold', 'make_safe']


def make_safe(cfg: Config) -> None:
    """Put hooks, loops, readers and backends into a config that is about to become a Runner; what it sets itself
    stays."""
    for part in (images, loss, checkpoints, signals, resume, determinism):
        part.put_into(cfg)
