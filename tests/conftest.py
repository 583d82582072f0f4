import sys
from pathlib import Path

TESTS = Path(__file__).parent
GOLDEN = TESTS / 'data' / 'golden'
sys.path.insert(0, str(GOLDEN))  # seeded.py, the generator behind the golden outputs
