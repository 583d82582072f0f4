"""Detectors with dense heads beside mmdet's own predictions, and their files."""
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector

from mmmambavision.errors import UserError
from mmmambavision.export.check import LIMITS, differences
from mmmambavision.export.contract import Contract
from mmmambavision.export.parts import PARTS
from mmmambavision.openmmlab.configs import first_dataset
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.models import load_model

from ..helpers.detectors import as_input, mmdets, small_config, squares, trained
from ..helpers.messages import facts
from ..helpers.process import load_tool
from ..helpers.tiers import full

CONFIGS = {
    'atss': 'atss/atss_r50_fpn_1x_coco', 'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'gfl': 'gfl/gfl_r50_fpn_1x_coco', 'rtmdet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'rtmdet-ins': 'rtmdet_ins_mambavision_t_100e'}


def untrained(name, **options):
    """A model with random weights, whose scores differ more than mmdet's initial weights would let them."""
    cfg = small_config(CONFIGS[name], **options)
    fit_to_machine(cfg)
    torch.manual_seed(0)
    model = load_model(cfg, None, 'cpu')
    for key, value in model.bbox_head.named_parameters():
        if 'cls' in key and key.endswith('weight') and value.dim() == 4:
            torch.nn.init.normal_(value, std=.2)
    return model


@pytest.mark.parametrize('name, options', [
    *((name, {}) for name in CONFIGS),
    ('atss', dict(model__test_cfg__nms__class_agnostic=True, model__test_cfg__score_thr=.2)),
    ('fcos', dict(model__bbox_head__norm_on_bbox=True, model__bbox_head__centerness_on_reg=True,
                  model__test_cfg__min_bbox_size=9)),
    ('rtmdet', dict(model__bbox_head__with_objectness=True, model__test_cfg__nms_pre=-1)),
    ('rtmdet-ins', dict(model__test_cfg__nms_pre=50, model__test_cfg__score_thr=.4))])
def test_eager_is_mmdets(name, options):
    model = untrained(name, **options)
    module = PARTS['model'](model).eval()
    sizes = [(96, 128)] if 'rtmdet' in name else [(96, 128), (70, 101)]  # mmdet's RTMDet takes only multiples of 32
    for size in sizes:
        image = squares(128, 1)[0][:size[0], :size[1]].copy()
        expected = mmdets(model, image)
        with torch.no_grad():
            found = [value.numpy() for value in module(torch.from_numpy(as_input(image)))]
        assert len(expected[1]) > 5 and len(found[0]) == model.test_cfg.max_per_img
        errors = differences(module.outputs, expected, found)
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors


@pytest.mark.parametrize('options, words', [
    (dict(model__test_cfg__nms__type='soft_nms'), ['soft_nms', 'NonMaxSuppression', 'score']),
    (dict(model__bbox_head__bbox_coder__type='TBLRBBoxCoder'), ['TBLRBBoxCoder', 'DistancePointBBoxCoder']),
    (dict(model__bbox_head__type='PAAHead', model__bbox_head__norm_cfg=None), ['ATSS with PAAHead', 'ATSS'])])
def test_heads_that_are_refused(options, words):
    with pytest.raises(UserError, match=facts(*words)):
        PARTS['model'](untrained('atss', **options))


def test_box_heads_with_other_masks_are_refused():
    """YOLACT and CondInst have a dense head, and another head of masks, which would be left out."""
    model = untrained('atss')
    model.mask_head = torch.nn.Identity()
    with pytest.raises(UserError, match='ATSSHead'):
        PARTS['model'](model)


def test_images_of_any_size():
    """The neck of RTMDet takes only multiples of 32, so the module pads others."""
    model = untrained('rtmdet-ins')
    dets, _, logits = PARTS['model'](model).eval()(torch.from_numpy(as_input(squares(128, 2)[0][:70, :101])))
    assert logits.shape[1:] == (12, 16) and (dets[:, 2] <= 101).all() and (dets[:, 3] <= 70).all()


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['rtmdet-ins', *map(full, ('atss', 'fcos', 'gfl', 'rtmdet'))])
def test_trained_and_exported(name, tmp_path):
    """A file at three sizes beside mmdet, and behind the config's pipeline in both readers of files."""
    pytest.importorskip('onnxscript')
    onnx = pytest.importorskip('onnx')
    from mmmambavision.export.exported_detector import ExportedDetector
    from mmmambavision.export.onnx import export, read
    model = trained(small_config(CONFIGS[name]))
    file = tmp_path / 'detector.onnx'
    described = Contract.describe(model, 'model', first_dataset(model.cfg.test_dataloader).pipeline)
    export(PARTS['model'](model).eval(), torch.randn(1, 3, 96, 160), file, 'scan', contract=described)
    content = onnx.load(file)
    assert {entry.domain: entry.version for entry in content.opset_import} == {'': 20}
    operators = {node.op_type for node in content.graph.node}
    assert not operators & {'Loop', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt'}

    session, count = read(file), 0
    outputs = tuple(output.name for output in session.get_outputs())
    for height, width in ((128, 128), (96, 160), (128, 64)) if 'rtmdet' in name else ((128, 128), (101, 77), (64, 128)):
        image = squares(160, 1000 + height)[0][:height, :width].copy()
        expected = mmdets(model, image)
        errors = differences(outputs, expected, session.run(None, {'images': as_input(image)}))
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors
        assert np.unique(expected[0][:, 4]).size > len(expected[0]) / 2
        count += len(expected[0])
    assert count > 20
    if find_spec('openvino'):
        import openvino
        compiled = openvino.Core().compile_model(file, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        errors = differences(outputs, expected, list(compiled({'images': as_input(image)}).values()))
        assert all(error <= LIMITS[kind] for kind, error in errors.items()), errors

    tool = load_tool('predict_onnx')
    exported, (session, meta) = ExportedDetector(str(file)), tool.load(file, 'cpu')
    exported.cfg, exported.dataset_meta = model.cfg, model.dataset_meta
    assert meta['resize'] == dict(scale=[160, 128], keep_ratio=True) and ('pad' in meta) == ('rtmdet' in name)
    image = squares(256, 2000)[0][:200, :230].copy()
    expected, found = (inference_detector(one, image).pred_instances for one in (model, exported))
    assert len(expected) == len(found) > 5
    torch.testing.assert_close(expected.scores, found.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(expected.bboxes, found.bboxes, atol=2e-3, rtol=0)
    annotations, masks = tool.detect(session, meta, image, 0.)
    boxes = np.array([annotation['bbox'] for annotation in annotations])
    boxes[:, 2:] += boxes[:, :2]
    assert np.abs(boxes - found.bboxes.numpy()).max() < 2e-3
    if name == 'rtmdet-ins':
        assert expected.masks.shape == found.masks.shape == (len(found), 200, 230)
        for one, *others in zip(expected.masks.numpy(), found.masks.numpy(), masks):
            assert all(overlap(one, other) > .99 for other in others if max(one.sum(), other.sum()) > 50)
