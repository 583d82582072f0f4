"""Several processes on CPU, and one that is killed."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from mmmambavision.checkpoints.files import read_checkpoint

from ..helpers.data import DETECTOR, data_options
from ..helpers.process import ROOT, free_port, run_tool

TABLE = r'(coco/bbox_mAP: .*coco/segm_mAP_l: [-\d.]+)'


def torchrun(script, *arguments):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2',
               '--master_port', str(free_port()), str(ROOT / 'tools' / script), *map(str, arguments),
               '--launcher', 'pytorch']
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='the launcher takes GPUs where there are some')
def test_two_processes_train_and_measure_as_one(shapes, tmp_path):
    # Batches of one image in evaluations: the numbers of an image do not depend on those beside it.
    options = [*data_options(shapes), 'train_dataloader.batch_size=4', 'val_dataloader.batch_size=1',
               'test_dataloader.batch_size=1']
    # The hook gives both processes the same running statistics before they validate and save them.
    config = tmp_path / 'synced.py'
    config.write_text(f"_base_ = '{ROOT / DETECTOR}'\ncustom_hooks = [dict(type='SyncBuffersHook')]\n")
    trained = torchrun('train.py', config, '--work-dir', tmp_path / 'two', '--cfg-options', *options)
    assert len(re.findall(r'Epoch\(train\) .*\[\d/2\]', trained)) == 2  # 16 images, 2 processes x 4 each
    checkpoint = tmp_path / 'two' / 'epoch_1.pth'
    one = run_tool('test.py', DETECTOR, checkpoint, '--work-dir', tmp_path / 'a', '--cfg-options', *options)
    two = torchrun('test.py', DETECTOR, checkpoint, '--work-dir', tmp_path / 'b', '--cfg-options', *options)
    assert re.search(TABLE, two)[1] == re.search(TABLE, one)[1] == re.search(TABLE, trained)[1]


@pytest.mark.slow
def test_killed_in_an_epoch_and_resumed(shapes, tmp_path):
    work_dir = tmp_path / 'killed'
    options = ['--work-dir', work_dir, '--cfg-options', *data_options(shapes), 'train_dataloader.batch_size=4',
               'train_cfg.max_epochs=3', 'train_cfg.val_interval=10']
    with open(tmp_path / 'log', 'w') as log:
        process = subprocess.Popen([sys.executable, str(ROOT / 'tools' / 'train.py'), DETECTOR, *map(str, options)],
                                   cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        deadline = time.time() + 240
        while '[2][2/4]' not in (tmp_path / 'log').read_text() and time.time() < deadline:
            time.sleep(.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    whole = (work_dir / 'epoch_1.pth').read_bytes()
    (work_dir / 'epoch_2.pth').write_bytes(whole[:len(whole) // 2])  # as if killed while writing
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    output = run_tool('train.py', DETECTOR, '--resume', *options)
    assert 'epoch_2.pth' in output.partition('resumed epoch')[0]
    assert 'resumed epoch: 1, iter: 4' in output
    meta = read_checkpoint(work_dir / 'epoch_3.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (3, 12)
