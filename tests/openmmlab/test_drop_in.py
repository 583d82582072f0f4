"""Stock mmdet and mmseg configs with nothing changed but the backbone and the channels that follow from it."""
import os
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmambavision.openmmlab.configs import replace_type

from ..helpers.process import ROOT, free_port

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
                      "custom_imports = dict(imports=['mmmambavision.openmmlab'])\n"
                      f'model = dict(backbone={BACKBONE.format(out_indices=out_indices)}, {changes})\n')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    replace_type(cfg.model, 'SyncBN', 'BN')
    for key in ('init_cfg', 'pretrained'):
        cfg.model.pop(key, None)
    if cfg.model.type == 'RTMDet':
        cfg.model.use_syncbn = False  # which it would be whatever its config says, and needs GPUs
    model = MODELS.build(cfg.model)
    model.init_weights()  # DINO has parameters whose memory is uninitialized until then
    return model


def check_training(model, inputs, samples):
    """Losses are finite and every backbone parameter that should learn gets a gradient."""
    model.train()
    loss, values = model.parse_losses(model(inputs, samples, mode='loss'))
    assert loss.isfinite() and loss > 0, values
    loss.backward()
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    assert [name for name, g in gradients.items() if g is None or not g.isfinite().all()] == []


def build_detector(name, folder):
    spec = DETECTORS[name]
    return build(mmdet, name, folder, spec.get('out_indices', (0, 1, 2, 3)), f"neck=dict(in_channels={spec['neck']})")


def detection_data(model, name):
    side = DETECTORS[name].get('side', 128)  # DINO looks for 900 places in its maps
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, side, side + 32], [3, side - 3, side + 2]], num_classes=80,
                                                  with_mask='mask' in name), True)
    return data['inputs'], data['data_samples']


def build_segmentor(name, folder):
    return build(mmseg, name, folder, (0, 1, 2, 3), SEGMENTORS[name])


def segmentation_data():
    meta = dict(img_shape=(96, 128), ori_shape=(96, 128), pad_shape=(96, 128), scale_factor=(1., 1.), flip=False)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 96, 128))), metainfo=meta)
               for _ in range(2)]
    return torch.randn(2, 3, 96, 128), samples


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] if 'dino' in name else []) for name in DETECTORS])
def test_detector(name, tmp_path):
    torch.manual_seed(0)
    model = build_detector(name, tmp_path)
    check_training(model, *detection_data(model, name))
    model.eval()
    side = DETECTORS[name].get('side', 128)
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, side, side + 32]]), False)
    with torch.no_grad():
        prediction, = model(data['inputs'], data['data_samples'], mode='predict')
    assert prediction.pred_instances.bboxes.shape[1] == 4 and prediction.pred_instances.scores.isfinite().all()
    assert ('mask' in name) == ('masks' in prediction.pred_instances)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name, tmp_path):
    torch.manual_seed(0)
    model = build_segmentor(name, tmp_path)
    images, samples = segmentation_data()
    check_training(model, images, samples)
    with torch.no_grad():
        prediction, _ = model.eval()(images, samples, mode='predict')
    assert prediction.pred_sem_seg.data.shape == (1, 96, 128)
    assert prediction.seg_logits.data.shape == (150, 96, 128) and prediction.seg_logits.data.isfinite().all()


def train_in_two_processes(folder):
    """Every model for three passes under DistributedDataParallel, which stops where parameters are left
    without gradient."""
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    folder = folder / str(rank)
    folder.mkdir()
    for name in [*DETECTORS, *SEGMENTORS]:
        torch.manual_seed(rank)
        model = build_detector(name, folder) if name in DETECTORS else build_segmentor(name, folder)
        parallel = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        for _ in range(3):
            parallel.zero_grad()
            inputs, samples = detection_data(model, name) if name in DETECTORS else segmentation_data()
            losses = parallel(inputs, samples, mode='loss')
            parallel.module.parse_losses(losses)[0].backward()
        total = sum(p.grad.double().abs().sum() for p in model.backbone.parameters())
        both = [torch.zeros_like(total) for _ in range(2)]
        torch.distributed.all_gather(both, total)
        assert both[0] == both[1] > 0, name  # gradients are the mean over the processes
        if rank == 0:
            print('trained', name, flush=True)


@pytest.mark.full
def test_two_processes_train_every_model(tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2',
               '--master_port', str(free_port()), '--module', 'tests.openmmlab.test_drop_in', str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout
    assert re.findall('trained (.*)', done.stdout) == [*DETECTORS, *SEGMENTORS]


if __name__ == '__main__':
    train_in_two_processes(Path(sys.argv[1]))
