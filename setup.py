from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = dict(line.split(' = ') for line in (HERE / 'mmmambavision' / 'version.py').read_text().splitlines()
               if line.startswith('__version__'))['__version__'].strip("'")
setup(name='mmmambavision', version=VERSION)
