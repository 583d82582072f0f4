"""Training on one's own data: a folder is looked at and reported on, and a config fitted to it."""
from .fit import predicts_masks
from .prepare import prepare
from .samples import draw_samples
from .weights import start_from

__all__ = ['draw_samples', 'predicts_masks', 'prepare', 'start_from']
