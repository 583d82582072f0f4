"""The comparison behind --check, and what a file says of itself."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmmambavision.export import check
from mmmambavision.export.check import LIMITS, compare, differences, picture, sizes_around
from mmmambavision.export.contract import Contract
from mmmambavision.openmmlab import models
from mmmambavision.openmmlab.configs import first_dataset
from mmmambavision.openmmlab.machine import fit_to_machine

from ..helpers.process import ROOT

DETECTOR = ('dets', 'labels', 'masks')


def detections(*rows):
    """Outputs of a detector, filled up with one row without a detection; rows are x1, y1, x2, y2, score, label."""
    rows = np.array([*rows, (0, 0, 0, 0, 0, -1)], np.float32)
    masks = np.arange(len(rows) * 4, dtype=np.float32).reshape(-1, 2, 2) * 0 + rows[:, 4, None, None]
    return rows[:, :5], rows[:, 5].astype(np.int64), masks


A, B, C = (0, 0, 9, 9, .9, 1), (20, 0, 30, 8, .8, 1), (0, 0, 9, 9, .2, 2)


def test_differences_of_detections():
    same = dict(boxes=0., scores=0., masks=0.)
    assert differences(DETECTOR, detections(A, B, C), detections(A, B, C)) == same
    assert differences(DETECTOR, detections(A, B, C), detections(B, A, C)) == same  # in another order
    assert differences(DETECTOR, detections(), detections()) == same
    moved = differences(DETECTOR, detections(A, B), detections((0, 0, 9, 11, .9, 1), (20, 0, 30, 8, .5, 1)))
    assert moved == pytest.approx(dict(boxes=2., scores=.3, masks=.3))
    infinite = dict.fromkeys(same, float('inf'))
    for other in (detections(A), detections(), detections(A, B, (0, 0, 9, 9, .2, 1)), detections(A, B, B),
                  detections(A, B, C, C)):
        assert differences(DETECTOR, detections(A, B, C), other) == infinite, other
    assert differences(DETECTOR, detections(), detections(A)) == infinite
    assert list(differences(DETECTOR[:2], detections(A)[:2], detections(A)[:2])) == ['boxes', 'scores']


def test_differences_of_mask_logits():
    """Of their probabilities."""
    names, (dets, labels, masks) = ('dets', 'labels', 'mask_logits'), detections(A)
    far = differences(names, (dets, labels, 90 + masks), (dets, labels, 95 + masks))
    near = differences(names, (dets, labels, 0 * masks), (dets, labels, 0 * masks + .4))
    assert far['masks'] < 1e-6 and near['masks'] == pytest.approx(1 / (1 + np.exp(-.4)) - .5)


def test_differences_in_float16():
    """Only detections that are sure have to be there."""
    assert differences(DETECTOR, detections(A, C), detections(A), half=True)['boxes'] == 0
    assert differences(DETECTOR, detections(C), detections(), half=True)['boxes'] == 0
    assert differences(DETECTOR, detections(A, B), detections(B), half=True)['boxes'] == float('inf')
    assert differences(DETECTOR, detections(A), detections(), half=True)['boxes'] == float('inf')


def test_differences_of_maps():
    maps = [np.zeros((1, 2, 3, 4)), np.ones((1, 2, 3, 4))]
    assert differences(None, maps, [maps[0] + .5, maps[1]]) == dict(maps=.5)
    assert differences(('logits',), maps[:1], [maps[0] - 2]) == dict(logits=2.)
    large = [np.full((1, 2), 100.), np.full((1, 2), 2.)]
    assert differences(None, large, [large[0] + 1, large[1]]) == dict(maps=.01)  # of the largest value
    assert set(LIMITS) == {'maps', 'logits', 'boxes', 'scores', 'masks'}
    with pytest.raises(ValueError):
        differences(None, maps, maps[:1])


def test_compare_runs_both_on_one_image(monkeypatch):
    """By a clock of the test: the first round does not count, and of the others the median does."""
    clock = SimpleNamespace(now=0.)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(check, 'time', clock)
    seconds = iter([90., 80., 1., 10., 5., 20., 2., 60.])

    class Twice(torch.nn.Module):
        outputs = ('logits',)

        def forward(self, images):
            clock.now += next(seconds)
            return 2 * images

    class Session:
        def run(self, _, inputs):
            clock.now += next(seconds)
            return [2 * inputs['images'] + .25]

    errors, eager, exported, count = compare(Twice(), Session(), torch.ones(1, 3, 4, 4))
    assert (errors, eager, exported, count) == (dict(logits=.125), 2., 20., None)


def test_pictures_and_sizes():
    assert sizes_around(224, 320) == ((112, 160), (320, 224), (123, 173), (256, 384))
    image = picture(40, 60)
    assert image.shape == (1, 3, 40, 60) and image.dtype == torch.float32 and torch.equal(image, picture(40, 60))
    assert image.min() >= 0 and image.max() <= 255 and image.std() > 10


def described(config, part='model', **options):
    cfg = Config.fromfile(ROOT / 'configs' / f'{config}.py')
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    fit_to_machine(cfg)
    steps = first_dataset(cfg.test_dataloader).pipeline
    return Contract.describe(models.load_model(cfg, None, 'cpu'), part, steps).fields


def test_description_of_detectors():
    found = described('cascade_mask_rcnn_mambavision_demo')
    assert found == dict(
        part='model', task='detection', mask_threshold=.5, resize=None,
        classes=['circle', 'triangle', 'rectangle', 'star'], palette=found['palette'])
    assert len(found['palette']) == 4
    resize = dict(type='Resize', scale=(320, 200), keep_ratio=True)
    steps = [dict(type='LoadImageFromFile'), resize, dict(type='PackDetInputs')]
    key = 'test_dataloader__dataset__pipeline'
    assert described('cascade_mask_rcnn_mambavision_demo', **{key: steps})['resize'] == dict(
        scale=[320, 200], keep_ratio=True)
    steps.insert(2, dict(type='Pad', size=(320, 256), pad_val=dict(img=(1, 2, 3))))
    found = described('cascade_mask_rcnn_mambavision_demo', **{key: steps})
    assert found['pad'] == dict(size=[320, 256], value=[3, 2, 1]) and found['resize']['scale'] == [320, 200]
    steps[2] = dict(type='Pad', size_divisor=32)
    assert 'resize' not in described('cascade_mask_rcnn_mambavision_demo', **{key: steps})
    steps[2] = dict(type='CenterCrop', crop_size=9)
    assert 'resize' not in described('cascade_mask_rcnn_mambavision_demo', **{key: steps})
    found = described('cascade_mask_rcnn_mambavision_demo', 'neck')
    assert found.keys() == {'part', 'classes', 'palette'} and found['part'] == 'neck'


def test_description_of_segmentors():
    found = described('upernet_mambavision_demo')
    assert (found['task'], found['window'], found['align_corners']) == ('segmentation', None, False)
    assert 'mean' not in found and len(found['classes']) == 5
    found = described(
        'upernet_mambavision_demo', model__data_preprocessor__test_cfg=dict(size_divisor=32),
        model__test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(40, 60)))
    assert found['window'] == dict(crop=[64, 96], stride=[40, 60])
    assert found['mean'] == [123.675, 116.28, 103.53] and found['size_divisor'] == 32
