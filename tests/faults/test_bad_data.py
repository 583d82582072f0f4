"""Images and label maps that cannot be read, in the middle of a training."""
import os
import re

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.image_files import fault
from mmmambavision.openmmlab.training import images

from ..helpers import data
from ..helpers.data import tiny_segmentor
from ..helpers.process import train

KEEP, CUT = slice(None), slice(None, -40)
BAD = {'1.jpg': None, '2.jpg': 'text', '3.jpg': CUT}  # missing, not an image, cut off


def spoil(path, how):
    data = path.read_bytes()
    path.unlink()
    if how is not None:
        path.write_bytes(how.encode() if isinstance(how, str) else data[how])


@pytest.fixture
def step():
    def build(**settings):
        return TRANSFORMS.build(dict(type='ReadWhole', step=dict(type='LoadImageFromFile'), **settings))
    return build


@pytest.mark.parametrize('kind', ['jpg', 'png'])
@pytest.mark.parametrize('how, reason', [
    (None, 'No such file'), ('', 'empty'), ('text', 'not an image'), (slice(0, 100), 'cut off'),
    (slice(0, -1), 'cut off'), (slice(0, -40), 'cut off'), (KEEP, None)])
def test_fault(kind, how, reason, tmp_path):
    path = tmp_path / f'a.{kind}'
    data.picture(3).save(path)
    spoil(path, how)
    assert (reason is None and fault(path) is None) or reason in fault(path)


def test_the_end_of_a_thumbnail_is_not_that_of_the_image(tmp_path):
    _, small = cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))
    data.picture(2).save(tmp_path / 'a.jpg', exif=b'Exif\0\0' + small.tobytes(), progressive=True)
    whole = (tmp_path / 'a.jpg').read_bytes()
    assert whole.count(b'\xff\xd9') == 2 and fault(tmp_path / 'a.jpg') is None
    (tmp_path / 'a.jpg').write_bytes(whole[:-1])
    assert 'cut off' in fault(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes(whole + b'\xff\xda appended by a camera')
    assert fault(tmp_path / 'a.jpg') is None


def test_a_good_image_is_read_as_before(step, tmp_path):
    path = str(tmp_path / 'a.jpg')
    data.picture(1).save(path)
    ours, theirs = step()(dict(img_path=path)), LoadImageFromFile()(dict(img_path=path))
    assert ours.keys() == theirs.keys() and np.array_equal(ours['img'], theirs['img'])


def test_stops_or_skips(step, tmp_path, logged):
    path = tmp_path / 'a.jpg'
    data.picture(1).save(path)
    spoil(path, CUT)
    results = dict(img_path=str(path), img_id=7)
    with pytest.raises(UserError) as stop:
        step(ann_file='train.json')(dict(results))
    for fact in (str(path), 'cut off', 'image 7', 'train.json', 'skip_broken_images'):
        assert fact in str(stop.value)
    skipping = step(skip_broken=True)
    assert skipping(dict(results)) is None and skipping(dict(results)) is None
    line, = [line for line in logged if str(path) in line]
    assert 'cut off' in line and 'image 7' in line


def test_other_errors_are_not_the_image_s(tmp_path):
    data.picture(1).save(tmp_path / 'a.jpg')
    step = TRANSFORMS.build(dict(
        type='ReadWhole', step=dict(type='LoadImageFromFile', backend_args=dict(backend='unknown'))))
    with pytest.raises(Exception, match='unknown'):
        step(dict(img_path=str(tmp_path / 'a.jpg')))


def test_every_training_pipeline_is_made_safe():
    def dataset():
        return dict(type='X', data_root='d', ann_file='a.json', pipeline=[
            dict(type='mmdet.LoadImageFromFile', to_float32=True), dict(type='LoadAnnotations'), dict(type='Pack')])
    cfg = Config(dict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(datasets=[dataset(), dataset()]))),
        val_dataloader=dict(dataset=dataset()), skip_broken_images=True,
        custom_hooks=[dict(type='PipelineSwitchHook', switch_pipeline=dataset()['pipeline'])]))
    images.put_into(cfg)
    safe = [part.pipeline for part in cfg.train_dataloader.dataset.dataset.datasets]
    for pipeline, ann_file in (*((each, 'd/a.json') for each in safe), (cfg.custom_hooks[0].switch_pipeline, None)):
        assert pipeline[0] == dict(type='ReadWhole', step=dict(type='mmdet.LoadImageFromFile', to_float32=True),
                                   key='img_path', ann_file=ann_file, skip_broken=True)
        assert (pipeline[1]['key'], pipeline[2]) == ('seg_map_path', dict(type='Pack'))
    assert cfg.val_dataloader.dataset == dataset()
    assert [hook.type for hook in cfg.custom_hooks] == ['PipelineSwitchHook']


@pytest.mark.slow
def test_a_training_stops_at_a_bad_image_or_goes_round_it(tmp_path):
    config = tiny_segmentor(tmp_path, iterations=12)
    for name, how in BAD.items():
        spoil(tmp_path / 'data/images/training' / name, how)
    (tmp_path / 'data/list.txt').write_text('1\n2\n3\n4\n')  # or a missing one would not be missed
    options = ['--cfg-options', 'train_dataloader.dataset.ann_file=list.txt']
    output = train(config, tmp_path / 'stops', *options, status=1)
    assert 'Traceback' not in output
    error, = [line for line in output.splitlines() if line.startswith('error: ')]
    assert f'{tmp_path}/data/images/training/' in error and 'skip_broken_images' in error
    assert f'{tmp_path}/data/list.txt' in error
    output = train(config, tmp_path / 'skips', '--skip-broken-images', *options, 'train_dataloader.num_workers=2')
    assert 'Iter(train) [12/12]' in output
    log, = (tmp_path / 'skips').glob('*/*.log')
    for name in BAD:
        assert log.read_text().count(f'images/training/{name}') == 1
    assert 'images/training/4.jpg' not in output


@pytest.mark.slow
def test_no_image_that_can_be_read_ends_the_training(tmp_path):
    config = tiny_segmentor(tmp_path)
    for number in data.TRAIN:
        spoil(tmp_path / f'data/annotations/training/{number}.png', CUT)  # the label maps, for once
    output = train(config, tmp_path / 'work', '--skip-broken-images', status=1)
    assert len(re.findall(r'/annotations/training/\d\.png', output)) == 4
    error, = [line for line in output.splitlines() if line.startswith('error: ')]
    assert 'data_root' in error and 'Traceback' not in output


def test_workers_name_a_file_once_together(step, tmp_path, logged):
    """What a forked process named, the others know."""
    skipping = step(skip_broken=True)
    assert skipping.named.is_shared()
    before = torch.count_nonzero(skipping.named)
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        skipping(dict(img_path=str(tmp_path / 'none.jpg')))
        os._exit(0)
    assert torch.count_nonzero(step(skip_broken=True).named) == before + 1
    assert skipping(dict(img_path=str(tmp_path / 'none.jpg'))) is None
    assert not any('none.jpg' in line for line in logged)
