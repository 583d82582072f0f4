"""The package as a whole: what it exports, that it needs torch alone, and that its index is true."""
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

import mmmambavision

from .helpers.process import ROOT
from .helpers.tiers import but_first

INDEX = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']


def test_exports():
    assert mmmambavision.__all__ == ['MambaVision', 'MambaVisionClassifier', '__version__']
    assert set(mmmambavision.__all__) <= set(dir(mmmambavision))
    with pytest.raises(AttributeError, match='Mamba'):
        mmmambavision.Mamba  # noqa: B018 (this looks it up)


ALONE = """
import sys
import tarfile
import zipfile
from pathlib import Path
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'transformers', 'huggingface_hub', 'safetensors', 'rich',
             'tqdm', 'matplotlib', 'torchvision', {more}):
    sys.modules[name] = None
import torch
import mmmambavision
from mmmambavision.ops import selective_scan
model = mmmambavision.MambaVision(dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)), init_cfg=dict(
    type='Pretrained', checkpoint=sys.argv[1]))
model.init_weights()
outputs = model(torch.randn(2, 3, 64, 64))
sum(output.sin().sum() for output in outputs).backward()
assert all(p.grad.isfinite().all() for p in model.parameters())
print(mmmambavision.__all__, [tuple(output.shape) for output in outputs])
"""


@pytest.mark.parametrize('more', ["", "'numba', 'triton'"])
def test_with_torch_alone(more, tmp_path):
    """A forward and a backward pass, and weights from a file, in a process to which everything optional is hidden."""
    model = mmmambavision.MambaVision(dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'x.pth')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', ALONE.format(more=more), str(tmp_path / 'x.pth')],
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("['MambaVision', 'MambaVisionClassifier', '__version__'] "
                           '[(2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]\n')


NOTHING_ELSE = """
import sys
import torch.utils.flop_counter  # torch's own, which tries whether there is a triton
before = set(sys.modules)
import mmmambavision
assert 'mmmambavision.models' not in sys.modules
mmmambavision.MambaVision, mmmambavision.MambaVisionClassifier
loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(loaded & {'mmengine', 'mmcv', 'mmdet', 'numba', 'llvmlite', 'triton', 'timm', 'torchvision', 'rich'}))
"""


def test_importing_the_network_imports_torch_alone():
    done = subprocess.run([sys.executable, '-c', NOTHING_ELSE], text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ('[]\n', '')


@pytest.mark.parametrize('module', ['mmmambavision.cli', 'mmmambavision.errors', 'mmmambavision.terminal'])
def test_what_commands_begin_with_needs_no_torch(module):
    code = f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None; import {module}"
    subprocess.run([sys.executable, '-c', code], check=True)


STATE = """
import logging
import sys
import mmengine.runner.checkpoint as checkpoint
from mmengine import registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import MMLogger
MMLogger.get_instance('a program')
def state():
    registries = {name: dict(value.module_dict) for name, value in vars(registry).items()
                  if isinstance(value, registry.Registry)}
    handlers = {name: list(logging.getLogger(name).handlers)
                for name in (None, 'mmmambavision', 'mmengine', 'a program')}
    return (registries, dict(checkpoint.CheckpointLoader._schemes), checkpoint.load_state_dict, handlers,
            logging.getLogger('mmmambavision').level, dict(MODULE2PACKAGE), list(sys.meta_path))
before = state()
from mmmambavision import MambaVision, MambaVisionClassifier
assert state() == before
import mmmambavision.openmmlab
assert all(now != then for now, then in zip(state(), before)), 'nothing is compared'
"""


def test_importing_the_network_changes_nothing_in_mmengine():
    """Only mmmambavision.openmmlab registers, patches and logs, and that changes all that is compared here."""
    pytest.importorskip('mmengine')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', STATE], check=True)


def test_what_mmengine_lacks_is_not_hidden(tmp_path):
    """A broken OpenMMLab is an error."""
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text('import something_it_needs')
    done = subprocess.run([sys.executable, '-c', 'import mmmambavision.openmmlab'], text=True, capture_output=True,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert "ModuleNotFoundError: No module named 'something_it_needs'" in done.stderr


def test_index_has_every_recipe():
    configs = {path.stem for path in (ROOT / 'configs').glob('*.py') if not path.stem.endswith('_demo')}
    assert {entry['Name'] for entry in INDEX} == configs


@pytest.mark.slow
@pytest.mark.parametrize('entry', but_first(INDEX, count=2), ids=lambda entry: entry['Name'])
def test_index_is_as_measured(entry):
    row = import_module('benchmarking.complexity').measure(ROOT / entry['Config'])
    assert entry['Metadata']['Parameters'] == round(row['params'] * 1e6)
    assert float(entry['Metadata']['FLOPs']) == pytest.approx(row['total'] * 1e9, rel=1e-3)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The names in a wheel and in an sdist of what is here."""
    folder = tmp_path_factory.mktemp('built')
    source = folder / 'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.*', 'work_dirs', 'data', '__pycache__', '*.egg-info',
                                                                'build', 'dist'))
    (source / 'tests').mkdir(exist_ok=True)
    code = 'from setuptools import build_meta as b; print(b.build_sdist("."), b.build_wheel("."), sep="\\n")'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=source, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    sdist, wheel = done.stdout.splitlines()[-2:]
    with tarfile.open(source / sdist) as tar, zipfile.ZipFile(source / wheel) as zipped:
        return [name.partition('/')[2] for name in tar.getnames()], zipped.namelist()


def tracked(folder):
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob('*.py') if '.mim' not in path.parts}


def test_wheel_has_the_package_and_the_recipes(built):
    _, wheel = built
    checks = {f'tools/benchmarks/{name}.py' for name in (
        'check_gpu', 'benchmarking/check_gpu', 'benchmarking/check_gpu_parts')}  # they need the tests
    recipes = tracked('configs') | tracked('tools') - checks
    recipes = {f'mmmambavision/.mim/{name}' for name in recipes | {'model-index.yml', 'configs/metafile.yml'}}
    assert {name for name in wheel if 'dist-info' not in name} == tracked('mmmambavision') | recipes | {
        'mmmambavision/py.typed'}
    assert any(name.endswith('licenses/LICENSE') for name in wheel)
    assert f'mmmambavision-{mmmambavision.__version__}.dist-info/METADATA' in wheel


def test_sdist_has_what_a_wheel_is_made_of(built):
    sdist, _ = built
    needed = tracked('mmmambavision') | tracked('configs') | tracked('tools') | {
        'LICENSE', 'README.md', 'CHANGELOG.md', 'MANIFEST.in', 'requirements.txt', 'model-index.yml', 'pyproject.toml',
        'setup.py', 'configs/metafile.yml', 'mmmambavision/py.typed'}
    files = {name for name in sdist if '.' in Path(name).name or name == 'LICENSE'}
    assert {name for name in files if 'egg-info' not in name} - {'PKG-INFO', 'setup.cfg'} == needed
