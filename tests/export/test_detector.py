"""Detectors as functions of an image beside mmdet's own predictions, and their files."""
import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmmambavision.errors import UserError
from mmmambavision.export.check import LIMITS, differences
from mmmambavision.export.parts import PARTS
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.models import load_model

from ..helpers.detectors import as_input, mmdets
from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.process import ROOT, run_tool
from ..helpers.tiers import full

CASCADE = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py'
BACKBONE = dict(_delete_=True, type='MambaVision', arch=NANO, window_size=(14, 7), drop_path_rate=0.)
PROPOSALS = dict(nms_pre=200, max_per_img=40)
SPECIFIC = [f'model.roi_head.bbox_head.{stage}.reg_class_agnostic=False' for stage in range(3)]
SEESAW = dict(model__test_cfg__rcnn__nms=dict(type='nms', iou_threshold=.5, class_agnostic=True),
              model__roi_head__bbox_head=[dict(
                  type='Shared2FCBBoxHead', in_channels=64, fc_out_channels=64, num_classes=4,
                  bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='SeesawLoss', num_classes=4))] * 3)

SCHEDULE = """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=35.))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
                   dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=3, convert_to_iter_based=True)]
randomness = dict(seed=0)
"""
MASK_RCNN = f"""
_base_ = ['{ROOT}/configs/_base_/models/mask_rcnn.py', '{ROOT}/configs/_base_/datasets/shapes_coco.py',
          '{ROOT}/configs/_base_/schedules/adamw_1x.py', '{ROOT}/configs/_base_/coco_runtime.py']
c = 32
model = dict(
    backbone={BACKBONE},
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=c, norm_cfg=dict(type='BN')),
    rpn_head=dict(in_channels=c, feat_channels=c),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=c), bbox_head=dict(in_channels=c, fc_out_channels=64, num_classes=4),
        mask_roi_extractor=dict(out_channels=c),
        mask_head=dict(num_convs=2, in_channels=c, conv_out_channels=c, num_classes=4)),
    train_cfg=dict(rpn_proposal={PROPOSALS}, rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn={PROPOSALS}, rcnn=dict(max_per_img=20)))
{SCHEDULE}"""
RETINANET = f"""
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '{ROOT}/configs/_base_/datasets/shapes_coco.py',
          '{ROOT}/configs/_base_/schedules/adamw_1x.py', '{ROOT}/configs/_base_/coco_runtime.py']
custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)
model = dict(
    backbone={dict(BACKBONE, out_indices=(1, 2, 3))},
    neck=dict(in_channels=[32, 64, 128], start_level=0, out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=4),
    test_cfg=dict(max_per_img=30))
{SCHEDULE}"""


def write_config(folder, text):
    path = folder / 'config.py'
    path.write_text(text)
    return path


def detector(config, checkpoint=None, **options):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    fit_to_machine(cfg)
    torch.manual_seed(0)
    return load_model(cfg, checkpoint, 'cpu')


@pytest.mark.parametrize('text, options', [
    (None, {}), (None, dict(model__roi_head__mask_head=None)), (MASK_RCNN, {}),
    (MASK_RCNN, dict(model__roi_head__mask_head__class_agnostic=True, model__test_cfg__rpn__min_bbox_size=8,
                     model__data_preprocessor__bgr_to_rgb=False, model__data_preprocessor__pad_size_divisor=1)),
    (None, SEESAW), (RETINANET, {}), (RETINANET, dict(model__test_cfg__nms_pre=-1))],
    ids=['cascade', 'cascade without masks', 'mask', 'mask, other settings', 'seesaw', 'retina', 'retina, all boxes'])
def test_eager_is_mmdets(text, options, tmp_path):
    """The function that is traced, with random weights: all detections, and with a high threshold none."""
    thresholds = 'model__test_cfg__score_thr' if text == RETINANET else 'model__test_cfg__rcnn__score_thr'
    image = np.random.default_rng(0).integers(0, 255, (70, 101, 3)).astype(np.uint8)
    config = write_config(tmp_path, text) if text else CASCADE
    for threshold, some in ((.005, True), (1., False)):
        model = detector(config, **options, **{thresholds: threshold})
        if text == RETINANET:
            torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=.02)
        expected = mmdets(model, image)
        assert (len(expected[1]) > 0) == some
        module = PARTS['model'](model).eval()
        with torch.no_grad():
            found = [value.numpy() for value in module(torch.from_numpy(as_input(image)))]
        assert len(found[0]) == (model.test_cfg if text == RETINANET else model.test_cfg.rcnn).max_per_img
        there = found[1] >= 0
        assert (np.diff(found[0][:, 4]) <= 0).all() and not found[0][~there].any()
        errors = differences(module.outputs, expected, found)
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors


def test_classes_of_lvis(tmp_path):
    many = {f'model__roi_head__{head}__num_classes': 1203 for head in ('bbox_head', 'mask_head')}
    model = detector(write_config(tmp_path, MASK_RCNN), **many, model__test_cfg__rcnn__score_thr=.0001)
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=.5)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    expected, module = mmdets(model, image), PARTS['model'](model).eval()
    with torch.no_grad():
        found = [value.numpy() for value in module(torch.from_numpy(as_input(image)))]
    errors = differences(module.outputs, expected, found)
    assert len(set(expected[1])) > 5 and all(error <= LIMITS[kind] for kind, error in errors.items()), errors


@pytest.mark.parametrize('options, words', [
    (dict(model__test_cfg__rcnn__nms=dict(type='soft_nms')), ['soft_nms']),
    (dict(model__roi_head__mask_roi_extractor__featmap_strides=[4, 8, 16]),
     ['featmap_strides', 'bbox_roi_extractor', 'mask_roi_extractor']),
    (dict(model__test_cfg__rcnn__max_per_img=-1), ['model.test_cfg', 'max_per_img']),
    (dict(model__roi_head__type='HybridTaskCascadeRoIHead'), ['HybridTaskCascadeRoIHead']),
    (dict(model__rpn_head__bbox_coder__clip_border=False), ['DeltaXYWHBBoxCoder']),
    (dict(model__roi_head__bbox_head=[dict(
        type='Shared2FCBBoxHead', in_channels=64, num_classes=4, with_reg=False)] * 3), ['Shared2FCBBoxHead', 'boxes']),
])
def test_detectors_that_are_refused(options, words):
    with pytest.raises(UserError, match=facts(*words)):
        PARTS['model'](detector(CASCADE, **options))


def test_panoptic_detectors_are_refused():
    """Of which the instances alone would be in the file."""
    model = detector(CASCADE)
    model.with_semantic_head = True
    with pytest.raises(UserError, match=facts('CascadeRCNN', 'CascadeRoIHead')):
        PARTS['model'](model)


@pytest.fixture(scope='module')
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    run_tool('demo/make_shapes_dataset.py', folder / 'data', '--train', 160, '--val', 20, '--size', 128)
    return folder / 'data' / 'coco'


@pytest.mark.slow
@pytest.mark.parametrize('name', [*map(full, ('agnostic', 'specific', 'mask')), 'retina'])
def test_trained_and_exported(name, held_out, tmp_path):
    """A detector of three epochs: its file beside mmdet on held-out images in two sizes, and beside tools/test.py."""
    onnxruntime = pytest.importorskip('onnxruntime')
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    config = CASCADE if name in ('agnostic', 'specific') else write_config(
        tmp_path, MASK_RCNN if name == 'mask' else RETINANET)
    data = [f'{loader}_dataloader.dataset.data_root={held_out}/' for loader in ('train', 'val', 'test')]
    data += [f'{name}_evaluator.ann_file={held_out}/annotations/instances_val2017.json' for name in ('val', 'test')]
    options = ['--cfg-options', *data, 'train_cfg.max_epochs=3', 'train_cfg.val_interval=4', 'param_scheduler.0.end=20',
               'param_scheduler.1.T_max=3', 'model.backbone.init_cfg=None', 'default_hooks.checkpoint.save_best=None']
    options += SPECIFIC if name == 'specific' else ['test_evaluator.metric=bbox', 'val_evaluator.metric=bbox'] * (
        name == 'retina')
    run_tool('train.py', config, '--work-dir', tmp_path / 'run', *options)
    file, checkpoint = tmp_path / 'detector.onnx', tmp_path / 'run' / 'epoch_3.pth'
    printed = run_tool('export.py', config, checkpoint, '--out', file, '--check', *options)
    assert 'warning' not in printed

    content = onnx.load(file)
    assert {entry.domain: entry.version for entry in content.opset_import} == {'': 20}
    operators = [node.op_type for node in content.graph.node]
    assert not set(operators) & {'Loop', 'Scan', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt'}
    # Each region is pooled once a stage; the stages of masks pool the same ones.
    assert operators.count('RoiAlign') == dict(agnostic=4, specific=4, mask=2, retina=0)[name]
    assert not any(node.metadata_props for node in content.graph.node)
    assert json.loads({entry.key: entry.value for entry in content.metadata_props}['task']) == 'detection'
    saved = torch.load(checkpoint, weights_only=False)['state_dict']
    assert file.stat().st_size < 1.2 * sum(value.numel() * value.element_size() for value in saved.values())

    model = detector(config, str(checkpoint), **({option.split('=')[0]: False for option in SPECIFIC}
                                                 if name == 'specific' else {}))
    session = onnxruntime.InferenceSession(str(file))
    outputs = tuple(output.name for output in session.get_outputs())
    files = sorted((held_out / 'val2017').glob('*'))
    images, counts = [cv2.imread(str(path)) for path in files], []
    for image in images + [cv2.resize(image, (203, 150)) for image in images]:
        expected = mmdets(model, image)
        errors = differences(outputs, expected, session.run(None, {'images': as_input(image)}))
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors
        counts.append(len(expected[1]))
    assert len(files) == 20 and sum(counts) > 40
    for grey in (0, 120):  # where boxes are found, there are others that are as good as they are
        blank = np.full((128, 128, 3), grey, np.uint8)
        assert (session.run(None, {'images': as_input(blank)})[1] >= 0).sum() == len(mmdets(model, blank)[1])

    common = [*files[:3], '--json', '--threshold', .05, '--out']
    run_tool('predict.py', *common, tmp_path / 'a', '--config', config, '--checkpoint', checkpoint, *options)
    run_tool('predict_onnx.py', file, *common, tmp_path / 'b')
    first, second = (json.loads((tmp_path / folder / 'predictions.json').read_text()) for folder in 'ab')
    assert first['images'] == second['images'] and first['categories'] == second['categories']
    assert 0 < len(first['annotations']) == len(second['annotations'])
    for a, b in zip(first['annotations'], second['annotations']):
        assert a.keys() == b.keys() and (a['image_id'], a['category_id']) == (b['image_id'], b['category_id'])
        np.testing.assert_allclose([*a['bbox'], a['score'], a['area'] / 1000],
                                   [*b['bbox'], b['score'], b['area'] / 1000], atol=2e-3)

    scores = [re.findall(r'coco/(\w+mAP\w*): (-?[\d.]+)', run_tool(
        'test.py', config, source, '--work-dir', tmp_path / 'test', *options)) for source in (checkpoint, file)]
    assert len(scores[0]) >= 6
    assert [key for key, _ in scores[0]] == [key for key, _ in scores[1]]
    np.testing.assert_allclose(*([float(value) for _, value in found] for found in scores), atol=.001)
