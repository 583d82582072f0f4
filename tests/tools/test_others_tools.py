"""mmdet's own commands with our configs."""
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest

from ..helpers.data import DETECTOR, data_options
from ..helpers.process import ROOT

TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


def run(script, *arguments):
    command = [sys.executable, '-W', 'ignore', str(TOOLS / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if "No module named 'mmcv._ext'" in done.stdout:
        pytest.skip('needs what make setup does: python -m mmmambavision.openmmlab.mmcv_ops --install')
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_train_and_test(shapes, tmp_path):
    """They import mmdet, and so mmcv.ops, before they read the config that imports us."""
    options = ['--cfg-options', *data_options(shapes), 'train_dataloader.batch_size=4']
    trained = run('train.py', DETECTOR, '--work-dir', tmp_path / 'train', *options)
    assert len(re.findall(r'Epoch\(train\) .*\[\d/4\]', trained)) == 4
    table = r'(coco/bbox_mAP: .*coco/segm_mAP_l: [-\d.]+)'
    tested = run('test.py', DETECTOR, tmp_path / 'train' / 'epoch_1.pth', '--work-dir', tmp_path / 'test', *options)
    assert re.search(table, tested)[1] == re.search(table, trained)[1]
