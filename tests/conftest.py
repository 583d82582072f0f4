import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / 'data' / 'golden'
sys.path.insert(0, str(GOLDEN))  # seeded.py, the generator behind the golden outputs


def load_tool(name):
    """The module `common` of tools/ and the one named, imported as the scripts there import each other."""
    if str(ROOT / 'tools') not in sys.path:
        sys.path.insert(0, str(ROOT / 'tools'))
    return importlib.import_module('common'), importlib.import_module(name)
