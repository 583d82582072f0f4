"""Parts of models in ONNX Runtime beside what they are made of."""
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

from mmmambavision import MambaVision
from mmmambavision.errors import UserError
from mmmambavision.export.contract import Contract
from mmmambavision.export.onnx import export, open_model, read
from mmmambavision.export.parts import PARTS, Backbone, Neck
from mmmambavision.export.segmentor import AdaptiveAvgPool, replace_adaptive_pooling
from mmmambavision.openmmlab import models
from mmmambavision.openmmlab.configs import first_dataset
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.presets import PRESETS

from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.process import ROOT
from ..helpers.tiers import but_first, full

SIZES = ((1, 64, 64), (2, 192, 256), (1, 427, 333), (1, 800, 1344), (1, 224, 448), (1, 896, 896))


def small_model(config, head=None, **options):
    cfg = Config.fromfile(ROOT / 'configs' / f'{config}.py')
    if head:
        cfg.model.decode_head = head
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    fit_to_machine(cfg)
    torch.manual_seed(0)
    return models.load_model(cfg, None, 'cpu')


def worst(module, session, images):
    with torch.no_grad():
        expected = module(images)
    expected = [expected] if torch.is_tensor(expected) else expected
    found = session.run(None, {'images': images.numpy()})
    return max(np.abs(a.numpy() - b).max() for a, b in zip(expected, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('window', [None, full((14, 7)), full((112, 56))])
def test_backbone_at_any_size(window, tmp_path):
    torch.manual_seed(0)
    network = MambaVision(NANO, window_size=window).eval()
    export(network, torch.randn(2, 3, 200, 264), tmp_path / 'm.onnx')
    session = read(tmp_path / 'm.onnx')
    for batch, *size in SIZES:
        assert worst(network, session, torch.randn(batch, 3, *size)) < 1e-4
    model = onnx.load(tmp_path / 'm.onnx')
    assert {entry.domain: entry.version for entry in model.opset_import} == {'': 20}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {'Loop', 'Scan', 'If', 'CumSum', 'NonZero', 'SequenceConstruct', 'SequenceAt'}
    assert not list(tmp_path.glob('m.onnx.*'))


@pytest.mark.slow
def test_balanced_windows_for_one_size(tmp_path):
    torch.manual_seed(0)
    network = MambaVision(dict(NANO, depths=(1, 1, 2, 2)), window_size=('balanced', 3)).eval()
    images = torch.randn(1, 3, 120, 160)  # windows of 3 and 2 tokens
    export(network, images, tmp_path / 'm.onnx', 'scan', static=True)
    assert worst(network, read(tmp_path / 'm.onnx'), images) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('arch', but_first(name for name in PRESETS if name != 'large3'))  # that has 3 GB
def test_presets(arch, tmp_path):
    torch.manual_seed(0)
    network = MambaVision(arch).eval()
    export(network, torch.randn(2, 3, 64, 96), tmp_path / 'm.onnx', scan='scan')
    assert worst(network, read(tmp_path / 'm.onnx'), torch.randn(1, 3, 96, 72)) < 1e-4


@pytest.mark.parametrize('size, bins', [((6, 9), (1, 1)), ((7, 5), (3, 2)), ((4, 4), (6, 6)), ((13, 17), (6, 3))])
def test_pooling_is_torchs(size, bins):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(AdaptiveAvgPool(bins)(x), torch.nn.AdaptiveAvgPool2d(bins)(x))
    module = torch.nn.Sequential(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2)), torch.nn.AdaptiveAvgPool2d(bins))
    expected = module(x)
    replace_adaptive_pooling(module)
    assert [type(module[0][0]), type(module[1])] == [AdaptiveAvgPool] * 2
    torch.testing.assert_close(module(x), expected)


BN = dict(type='BN')
HEADS = dict(
    uper={},
    fcn=dict(head=dict(
        type='FCNHead', in_channels=256, in_index=3, channels=32, num_convs=2, num_classes=5, norm_cfg=BN)),
    segformer=dict(model__data_preprocessor__bgr_to_rgb=False, head=dict(
        type='SegformerHead', in_channels=[32, 64, 128, 256], in_index=[0, 1, 2, 3], channels=32, num_classes=5,
        norm_cfg=BN)),
    padded=dict(model__data_preprocessor__test_cfg=dict(size_divisor=32), model__decode_head__align_corners=True),
    slide=dict(model__data_preprocessor__test_cfg=dict(size_divisor=32),
               model__test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(40, 60))))


@pytest.mark.slow
@pytest.mark.parametrize('head', ['uper', 'slide', *map(full, ('fcn', 'segformer', 'padded'))])
def test_segmentor_is_mmsegs(head, tmp_path):
    """Logits of a file at sizes that it has not seen, beside those that mmseg's own inference gives; in slide mode
    through the model that tools/test.py puts in the place of the config's."""
    from mmseg.apis import inference_model

    from mmmambavision.export.exported_segmentor import ExportedSegmentor
    model = small_model('upernet_mambavision_demo', **HEADS[head])
    shapes = [(96, 128), (173, 123), (64, 200)]
    images = [np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8) for shape in shapes]
    expected = [inference_model(model, image) for image in images]
    steps = first_dataset(model.cfg.test_dataloader).pipeline
    file, described = tmp_path / 's.onnx', Contract.describe(model, 'model', steps)
    export(PARTS['model'](model).eval(), torch.randn(2, 3, 80, 112), file, contract=described)
    exported = ExportedSegmentor(str(file), model.test_cfg)
    exported.cfg = model.cfg
    session = read(file)
    for image, sample in zip(images, expected):
        rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        found = inference_model(exported, image)
        logits = [found.seg_logits.data.numpy()]
        if head != 'slide':
            logits.append(session.run(None, {'images': np.concatenate([rgb, rgb[..., ::-1]])})[0][0])
        for values in logits:
            assert np.abs(values - sample.seg_logits.data.numpy()).max() < 1e-4
            first, second = np.sort(values, axis=0)[:-3:-1]
            sure = first - second > 1e-4
            assert (values.argmax(0) == sample.pred_sem_seg.data[0].numpy())[sure].all()
        assert (found.pred_sem_seg.data == sample.pred_sem_seg.data)[0][torch.from_numpy(sure)].all()
    meta = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert meta == described.fields


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['timm', full('mmpretrain')])
def test_classifier_is_mmpretrains(kind, tmp_path):
    """Scores of a file at a size that it has not seen, through the model that tools/test.py evaluates."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    from mmmambavision.export.exported_classifier import ExportedClassifier
    cfg = Config.fromfile(ROOT / 'configs' / 'classification' / 'mambavision_demo.py')
    cfg.model.data_preprocessor = dict(cfg.data_preprocessor, type='mmpretrain.ClsDataPreprocessor')
    if kind == 'timm':
        cfg.model.update(arch=NANO)
    else:
        cfg.model = dict(
            type='ImageClassifier', backbone=dict(type='MambaVision', arch=NANO),
            neck=dict(type='GlobalAveragePooling'), data_preprocessor=cfg.model.data_preprocessor,
            head=dict(type='LinearClsHead', in_channels=8 * NANO['dim'], num_classes=4))
    torch.manual_seed(0)
    model = models.load_model(cfg, None, 'cpu')
    contract = Contract.describe(model, 'model', cfg.test_dataloader.dataset.pipeline)
    export(PARTS['model'](model).eval(), torch.randn(2, 3, 64, 96), tmp_path / 'c.onnx', contract=contract)
    exported = ExportedClassifier(str(tmp_path / 'c.onnx'))
    inputs = [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(3)]
    found, expected = (one.val_step(dict(inputs=inputs, data_samples=[DataSample() for _ in inputs]))
                       for one in (exported, model))
    for a, b in zip(found, expected, strict=True):
        assert (a.pred_score - b.pred_score).abs().max() < 1e-5 and a.pred_label == b.pred_label
    assert contract.task == 'classification' and len(contract.classes) == 4
    with pytest.raises(UserError, match='classification'):
        open_model(tmp_path / 'c.onnx', 'detection')


@pytest.mark.parametrize('options, message', [
    (dict(model__data_preprocessor__test_cfg=dict(size=(64, 64))),
     'data_preprocessor.test_cfg'),
    (dict(head=dict(type='PointHead', in_channels=[256], in_index=[3], channels=8, num_classes=5)),
     'PointHead')])
def test_segmentors_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PARTS['model'](small_model('upernet_mambavision_demo', **options))


def test_parts_of_a_detector():
    model = small_model('cascade_mask_rcnn_mambavision_demo')
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = model.backbone(x)
        assert all(torch.equal(a, b) for a, b in zip(Backbone(model)(x), maps, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(Neck(model)(x), model.neck(maps), strict=True))
    with pytest.raises(UserError, match=facts('neck', 'backbone')):
        Neck(small_model('upernet_mambavision_demo'))


@pytest.mark.parametrize('part, words', [
    ('model', ['Sequential', 'RetinaNet']), ('backbone', ['Sequential', 'backbone']),
    ('neck', ['Sequential', 'backbone'])])
def test_models_that_are_neither(part, words):
    """Such as timm's in mmpretrain's wrapper; mmdet's Mask2Former and test-time augmentation have no bbox_head."""
    with pytest.raises(UserError, match=facts(*words)):
        PARTS[part](torch.nn.Sequential())


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    """A disk that fills up on the way: a sentence, and no part of a file."""
    pytest.importorskip('onnxscript')
    import onnx

    def save(model, path, **options):
        Path(path).write_bytes(b'a part')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(onnx, 'save', save)
    with pytest.raises(UserError, match=facts('x.onnx', 'No space left on device')):
        export(torch.nn.Identity(), torch.zeros(2, 3, 8, 8), tmp_path / 'x.onnx')
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing(monkeypatch, tmp_path):
    import sys
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match='pip install onnx onnxscript onnxruntime'):
        export(None, None, tmp_path / 'x.onnx')
