"""What keeps a training safe, as parts that mmengine's registries know; docs/reliability.md is about them."""
from . import checkpoints, resume, signals

__all__ = ['make_safe']


def make_safe(cfg):
    """Put hooks, loops and backends into a config that is about to become a Runner; what it sets itself stays."""
    checkpoints.put_into(cfg)
    signals.put_into(cfg)
    resume.put_into(cfg)
