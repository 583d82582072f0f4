"""LVIS's evaluation, the package lvis, made to run with numpy 1.24 and later, for configs that name this module in
custom_imports. Without the package nothing happens: what needs it says so."""
from types import SimpleNamespace

import numpy

try:
    from lvis import eval as evaluation
except ImportError:
    pass
else:
    if not hasattr(numpy, 'float'):  # which its last release, 0.5.3, asks for
        evaluation.np = SimpleNamespace(**vars(numpy), float=float)
