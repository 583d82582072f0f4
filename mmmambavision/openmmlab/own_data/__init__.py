"""Training on your own data: check a folder, print a report, and fit a config to it."""
from .fit import predicts_masks
from .prepare import prepare
from .samples import draw_samples
from .weights import start_from

__all__ = ['draw_samples', 'predicts_masks', 'prepare', 'start_from']
