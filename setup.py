import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
STACKS = {name: [line for line in (HERE / f'requirements-{name}.txt').read_text().split() if '==' in line]
          for name in ('openmmlab', 'onedl')}

setup(
    name='mmmambavision',
    version=re.search(r"'(.+)'", (HERE / 'mmmambavision' / 'version.py').read_text())[1],
    description='MambaVision as a backbone for OpenMMLab detectors and segmentors',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmmambavision', 'mmmambavision.*']),
    python_requires='>=3.10',
    # The oldest that the tests of models, operators and checkpoints were run with.
    install_requires=['torch>=2.6', 'timm>=1.0.3', 'numpy', 'safetensors', 'huggingface_hub'],
    # mmengine comes as mmengine or as onedl-mmengine, so it is in an extra; mmcv is installed before (see Makefile).
    extras_require={**STACKS, 'cpu': ['numba'], 'tools': ['matplotlib', 'tqdm', 'pycocotools'], 'test': ['pytest']},
)
