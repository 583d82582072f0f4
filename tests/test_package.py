"""The package as a whole: what it exports, what it says without mmengine, and that its index is true."""
import subprocess
import sys

import pytest
import yaml

import mmmambavision

from .conftest import ROOT, load_tool

INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Models']


def test_exports():
    assert mmmambavision.__version__.count('.') == 2
    assert {'MambaVision', '__version__'} <= set(mmmambavision.__all__)


def test_without_mmengine_one_line_says_what_to_install(tmp_path):
    (tmp_path / 'mmengine.py').write_text("raise ImportError('not here')")
    done = subprocess.run([sys.executable, '-c', 'import mmmambavision'], text=True, capture_output=True,
                          env={'PYTHONPATH': f'{tmp_path}:{ROOT}', 'PATH': ''})
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == (
        'ImportError: mmmambavision needs mmengine: pip install mmengine (or its maintained fork: pip install '
        'onedl-mmengine)')


def test_index_has_every_recipe():
    configs = {path.stem for path in (ROOT / 'configs').glob('*.py') if not path.stem.endswith('_demo')}
    assert {entry['Name'] for entry in INDEX} == configs


@pytest.mark.parametrize('entry', INDEX, ids=lambda entry: entry['Name'])
def test_index_is_as_measured(entry):
    row = load_tool('complexity')[1].measure(ROOT / entry['Config'])
    assert entry['Metadata']['Parameters'] == round(row['params'] * 1e6)
    assert float(entry['Metadata']['FLOPs']) == pytest.approx(row['total'] * 1e9, rel=1e-3)
