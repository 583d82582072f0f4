"""Fix the package lvis for NumPy 1.24 and later. Configs list this module in custom_imports.

Without the package this module does nothing. `check_data` reports the missing package.
"""
from types import SimpleNamespace

import numpy

try:
    from lvis import eval as evaluation
except ImportError:
    pass
else:
    if not hasattr(numpy, 'float'):  # lvis 0.5.3 uses numpy.float
        evaluation.np = SimpleNamespace(**vars(numpy), float=float)
