"""Stock mmdet and mmseg configs with nothing changed but the backbone and the channels that follow from it."""
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from .conftest import load_tool

BACKBONE = """dict(
        _delete_=True, type='MambaVision', arch=dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)),
        window_size=None, out_indices={out_indices})"""
DETECTORS = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': dict(neck=[16, 32, 64, 128]),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': dict(neck=[16, 32, 64, 128]),
    'retinanet/retinanet_r50_fpn_1x_coco': dict(neck=[16, 32, 64, 128]),
    'atss/atss_r50_fpn_1x_coco': dict(neck=[16, 32, 64, 128]),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': dict(neck=[32, 64, 128], out_indices=(1, 2, 3)),
    'dino/dino-4scale_r50_8xb2-12e_coco': dict(neck=[32, 64, 128], out_indices=(1, 2, 3), side=256),
}
SEGMENTORS = {
    'upernet/upernet_r50_4xb4-160k_ade20k-512x512':
        'decode_head=dict(in_channels=[16, 32, 64, 128]), auxiliary_head=dict(in_channels=64)',
    'fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512':
        'decode_head=dict(in_channels=128), auxiliary_head=dict(in_channels=64)',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512': 'decode_head=dict(in_channels=[16, 32, 64, 128])',
    'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512': 'decode_head=dict(in_channels=[16, 32, 64, 128])',
}


def build(toolbox, name, folder, out_indices, changes):
    """The model of a stock config in which a new config changes only what it says."""
    base = Path(toolbox.__file__).parent / '.mim' / 'configs' / f'{name}.py'
    config = folder / 'mine.py'
    config.write_text(f"_base_ = '{base}'\n"
                      "custom_imports = dict(imports=['mmmambavision'])\n"
                      f'model = dict(backbone={BACKBONE.format(out_indices=out_indices)}, {changes})\n')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    common, _ = load_tool('common')
    common.replace_type(cfg.model, 'SyncBN', 'BN')
    for key in ('init_cfg', 'pretrained'):
        cfg.model.pop(key, None)
    return MODELS.build(cfg.model)


def check_training(model, inputs, samples):
    """Losses are finite and every backbone parameter that should learn gets a gradient."""
    model.train()
    loss, values = model.parse_losses(model(inputs, samples, mode='loss'))
    assert loss.isfinite() and loss > 0, values
    loss.backward()
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    # A head may leave out some of the maps; then their norms, and only they, are idle.
    idle = [name for name, g in gradients.items() if (g is None or not g.isfinite().all()) and not name.startswith('outnorm')]
    assert idle == []


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name, tmp_path):
    torch.manual_seed(0)
    spec = DETECTORS[name]
    side = spec.get('side', 128)  # DINO looks for 900 places in its maps
    model = build(mmdet, name, tmp_path, spec.get('out_indices', (0, 1, 2, 3)), f"neck=dict(in_channels={spec['neck']})")
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, side, side + 32], [3, side - 3, side + 2]], num_classes=80,
                                                  with_mask='mask' in name), True)
    check_training(model, data['inputs'], data['data_samples'])
    model.eval()
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, side, side + 32]]), False)
    with torch.no_grad():
        prediction, = model(data['inputs'], data['data_samples'], mode='predict')
    assert prediction.pred_instances.bboxes.shape[1] == 4 and prediction.pred_instances.scores.isfinite().all()
    assert ('mask' in name) == ('masks' in prediction.pred_instances)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name, tmp_path):
    torch.manual_seed(0)
    model = build(mmseg, name, tmp_path, (0, 1, 2, 3), SEGMENTORS[name])
    meta = dict(img_shape=(96, 128), ori_shape=(96, 128), pad_shape=(96, 128), scale_factor=(1., 1.), flip=False)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 96, 128))), metainfo=meta)
               for _ in range(2)]
    images = torch.randn(2, 3, 96, 128)
    check_training(model, images, samples)
    with torch.no_grad():
        prediction, _ = model.eval()(images, samples, mode='predict')
    assert prediction.pred_sem_seg.data.shape == (1, 96, 128)
    assert prediction.seg_logits.data.shape == (150, 96, 128) and prediction.seg_logits.data.isfinite().all()
