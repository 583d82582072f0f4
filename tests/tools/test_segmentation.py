"""A segmentor through the commands that a user types: a few iterations, evaluation, augmentation, pictures."""
import pickle
import re

import cv2
import numpy as np
import pytest

from mmmambavision.cli.test import main
from mmmambavision.terminal import run

from ..helpers.data import DETECTOR, SEGMENTOR, data_options
from ..helpers.process import ROOT, run_tool

pytestmark = pytest.mark.slow


def seg_options(shapes):
    return [f'{loader}_dataloader.dataset.data_root={shapes}/ade' for loader in ('train', 'val', 'test')] + [
        'train_cfg.max_iters=6', 'train_cfg.val_interval=3', 'default_hooks.checkpoint.interval=3',
        'default_hooks.logger.interval=1', 'train_dataloader.batch_size=4']


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('segmentor')
    return work_dir, run_tool('train.py', SEGMENTOR, '--work-dir', work_dir, '--amp', '--cfg-options',
                              *seg_options(shapes))


def test_train(trained):
    work_dir, output = trained
    losses = [float(x) for x in re.findall(r' loss: ([\d.]+)', output)]
    assert len(losses) == 6 and all(0 < loss < 20 for loss in losses)
    assert len(re.findall(r'mIoU: [\d.]+', output)) == 2
    assert {path.name for path in work_dir.glob('iter_*.pth')} == {'iter_3.pth', 'iter_6.pth'}


def test_evaluate_with_and_without_augmentation(trained, shapes, tmp_path):
    work_dir, training = trained
    output = run_tool('test.py', SEGMENTOR, work_dir / 'iter_6.pth', '--work-dir', tmp_path / 'a',
                      '--out', tmp_path / 'p.pkl', '--show-dir', tmp_path / 'pictures',
                      '--cfg-options', *seg_options(shapes))
    table = r'mIoU: ([\d.]+)  mAcc: ([\d.]+)'
    assert re.search(table, output).groups() == re.findall(table, training)[-1]
    assert len(pickle.loads((tmp_path / 'p.pkl').read_bytes())) == 6
    assert len([*(tmp_path / 'pictures').rglob('*.png')]) == 6
    augmented = run_tool('test.py', SEGMENTOR, work_dir / 'iter_6.pth', '--work-dir', tmp_path / 'b', '--tta',
                         '--cfg-options', *seg_options(shapes), 'test_dataloader.batch_size=1')
    assert re.search(table, augmented)
    mixed = run_tool('test.py', SEGMENTOR, work_dir / 'iter_6.pth', '--work-dir', tmp_path / 'c', '--amp',
                     '--cfg-options', *seg_options(shapes))
    assert abs(float(re.search(table, mixed)[1]) - float(re.search(table, output)[1])) < 3


def test_resume(trained, shapes):
    work_dir, _ = trained
    output = run_tool('train.py', SEGMENTOR, '--work-dir', work_dir, '--resume', '--cfg-options', *seg_options(shapes),
                      'train_cfg.max_iters=8')
    assert 'resumed epoch: 0, iter: 6' in output


def test_a_file_in_the_place_of_the_checkpoint(trained, shapes, tmp_path):
    """The same mIoU, and the same label maps from numpy, onnxruntime and opencv alone."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    checkpoint, file, options = trained[0] / 'iter_6.pth', tmp_path / 's.onnx', ['--cfg-options', *seg_options(shapes)]
    run_tool('export.py', SEGMENTOR, checkpoint, '--out', file, '--size', 128, 160, *options)
    table = r'mIoU: ([\d.]+)  mAcc: ([\d.]+)'
    scores = [re.search(table, run_tool('test.py', SEGMENTOR, source, '--work-dir', tmp_path / 'run',
                                        *options)).groups()
              for source in (checkpoint, file)]
    np.testing.assert_allclose(*(np.array(found, float) for found in scores), atol=.1)
    images = shapes / 'ade' / 'images' / 'validation'
    run_tool('predict.py', images, '--config', SEGMENTOR, '--checkpoint', checkpoint, '--json', '--out', tmp_path / 'a',
             *options)
    run_tool('predict_onnx.py', file, images, '--json', '--out', tmp_path / 'b')
    assert (tmp_path / 'a' / 'predictions.json').read_text() == (tmp_path / 'b' / 'predictions.json').read_text()
    maps = [sorted((tmp_path / folder / 'labels').glob('*.png')) for folder in 'ab']
    assert len(maps[0]) == len(maps[1]) == 6
    for first, second in zip(*maps):
        same = cv2.imread(str(first), cv2.IMREAD_UNCHANGED) == cv2.imread(str(second), cv2.IMREAD_UNCHANGED)
        assert same.mean() > .999


@pytest.mark.slow
def test_boxes_can_be_augmented_and_masks_cannot(shapes, tmp_path):
    checkpoint = tmp_path / 'd' / 'epoch_1.pth'
    run_tool('train.py', DETECTOR, '--work-dir', tmp_path / 'd', '--cfg-options', *data_options(shapes),
             'train_dataloader.batch_size=16', 'train_cfg.val_interval=2')
    options = ['--tta', '--work-dir', tmp_path / 'e', '--cfg-options', *data_options(shapes)]
    with pytest.raises(SystemExit, match='model.roi_head.mask_head=None'):
        run(lambda: main([str(ROOT / DETECTOR), str(checkpoint), *map(str, options)]))
    output = run_tool('test.py', DETECTOR, checkpoint, *options, 'model.roi_head.mask_head=None',
                      'test_evaluator.metric=bbox')
    assert 'coco/bbox_mAP' in output and 'segm_mAP' not in output
