"""Training and evaluation through the commands that a user types, on a few drawn images."""
import os
import pickle
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from mmmambavision.cli import parse
from mmmambavision.cli import train as command
from mmmambavision.cli.work import train as work
from mmmambavision.openmmlab import own_data

from ..helpers.data import DETECTOR, data_options
from ..helpers.messages import facts
from ..helpers.process import ROOT, error_of, run_tool


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    """Work dir and output of one epoch, with mixed precision and SyncBN asked for on a machine that may lack them."""
    work_dir = tmp_path_factory.mktemp('detector')
    output = run_tool('train.py', DETECTOR, '--work-dir', work_dir, '--amp', '--auto-scale-lr', '--cfg-options',
                      *data_options(shapes), 'train_dataloader.batch_size=4',
                      'model.neck.norm_cfg.type=SyncBN')
    return work_dir, output


def test_train(trained):
    work_dir, output = trained
    losses = [float(x) for x in re.findall(r' loss: ([\d.]+)', output)]
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
    assert 'coco/bbox_mAP' in output and 'coco/segm_mAP' in output
    assert (work_dir / 'epoch_1.pth').is_file()
    assert 'LR is set based on batch size of 2 and the current batch size is 4' in output
    if not torch.cuda.is_available():
        assert "type='BFloat16OptimWrapper'" in output
        assert 'SyncBN' in output


def test_evaluate(trained, shapes, tmp_path):
    work_dir, training = trained
    output = run_tool('test.py', DETECTOR, work_dir / 'epoch_1.pth', '--work-dir', tmp_path / 'test', '--out',
                      tmp_path / 'predictions.pkl', '--show-dir', tmp_path / 'pictures', '--cfg-options',
                      *data_options(shapes))
    table = r'coco/bbox_mAP: ([-\d.]+) .*coco/segm_mAP: ([-\d.]+)'
    assert re.search(table, output).groups() == re.search(table, training).groups()
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in output
    assert len(list((tmp_path / 'pictures').glob('*.jpg'))) == 6
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == 6
    refused = run_tool('test.py', DETECTOR, work_dir / 'epoch_1.pth', '--out', tmp_path / 'predictions.pkl', status=1)
    assert '.pkl' in refused.splitlines()[-1]


@pytest.mark.slow
def test_resume(trained, shapes, tmp_path):
    work_dir, _ = trained
    options = [*data_options(shapes), 'train_dataloader.batch_size=4']
    refused = run_tool('train.py', DETECTOR, '--work-dir', work_dir, '--cfg-options', *options, status=1)
    assert '--resume' in refused.splitlines()[-1] and 'Traceback' not in refused
    output = run_tool('train.py', DETECTOR, '--work-dir', work_dir, '--resume', '--cfg-options', *options,
                      'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1, iter: 4' in output
    assert (work_dir / 'epoch_2.pth').is_file()


def test_curves(trained):
    work_dir, _ = trained
    assert run_tool('plot_curves.py', work_dir).strip().endswith(str(work_dir / 'curves.png'))
    drawn = cv2.imread(str(work_dir / 'curves.png'))
    assert drawn is not None and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 2  # lines on white, with black text
    assert str(work_dir / 'nothing') in run_tool('plot_curves.py', work_dir / 'nothing', status=1)


def test_dataset_not_found(tmp_path):
    message = error_of('train', ROOT / DETECTOR, '--work-dir', tmp_path, '--cfg-options',
                       f'train_dataloader.dataset.data_root={tmp_path}/nowhere/')
    assert f'{tmp_path}/nowhere/annotations/instances_train2017.json' in message
    assert 'train_dataloader.dataset.data_root' in message and 'train_dataloader.dataset.ann_file' in message
    assert 'docs/reproduce.md' in message


def test_fewer_than_three_channels(shapes, tmp_path):
    options = ['--work-dir', tmp_path, '--cfg-options', *data_options(shapes)]
    message = error_of('train', ROOT / DETECTOR, *options, 'train_dataloader.dataset.pipeline.0.color_type=grayscale')
    assert 'train_dataloader.dataset.pipeline' in message
    message = error_of('train', ROOT / DETECTOR, *options, 'model.type=OneChannel')
    assert '(B, 3, H, W)' in message and '(2, 1, 96, 96)' in message


@MODELS.register_module()
class OneChannel(BaseModel):
    """A detector, as far as training knows, that gives its backbone one channel."""

    def __init__(self, backbone, data_preprocessor, **others):
        super().__init__(MODELS.build(data_preprocessor))
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs[:, :1])


def test_classes_that_the_data_does_not_have(shapes, tmp_path):
    message = error_of('train', ROOT / DETECTOR, '--work-dir', tmp_path, '--cfg-options', *data_options(shapes),
                       "train_dataloader.dataset.metainfo.classes=('cat','dog')")
    assert re.search(facts('train_dataloader.dataset', 'cat, dog', 'circle', 'instances_train2017.json'), message)


def test_config_not_found_or_broken(tmp_path):
    assert str(tmp_path / 'no.py') in error_of('train', tmp_path / 'no.py')
    (tmp_path / 'broken.py').write_text('model = dict(')
    assert str(tmp_path / 'broken.py') in error_of('train', tmp_path / 'broken.py')


def test_checkpoint_not_found_or_not_one(shapes, tmp_path):
    options = ['--work-dir', tmp_path / 'w', '--cfg-options', *data_options(shapes)]
    assert 'no.pth' in error_of('test', ROOT / DETECTOR, 'no.pth', *options)
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    assert 'text.pth' in error_of('test', ROOT / DETECTOR, tmp_path / 'text.pth', *options)
    torch.save(dict(state_dict={}), tmp_path / 'half.pth')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'half.pth').read_bytes()[:300])
    assert 'half.pth' in error_of('test', ROOT / DETECTOR, tmp_path / 'half.pth', *options)


class Bomb:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_resume_and_test_do_not_run_pickled_code(shapes, tmp_path):
    torch.save(dict(state_dict={}, meta=Bomb(tmp_path / 'boom')), tmp_path / 'bomb.pth')
    options = ['--work-dir', tmp_path / 'w', '--cfg-options', *data_options(shapes)]
    for message in (error_of('train', ROOT / DETECTOR, '--resume', tmp_path / 'bomb.pth', *options),
                    error_of('train', ROOT / DETECTOR, *options, f"load_from={tmp_path / 'bomb.pth'}"),
                    error_of('test', ROOT / DETECTOR, tmp_path / 'bomb.pth', *options)):
        assert 'posix.mkdir' in message and 'bomb.pth' in message
    assert not (tmp_path / 'boom').exists()


@pytest.mark.parametrize('options, config, resume, load_from', [
    (['--resume'], {}, False, None), (['--resume'], dict(load_from='a.pth'), False, 'a.pth'),
    (['--resume', 'b.pth'], {}, True, 'b.pth'), ([], dict(resume=True), False, None),
    ([], dict(resume=True, load_from='c.pth'), True, 'c.pth')])
def test_what_resume_means_where_there_is_nothing_whole(options, config, resume, load_from, tmp_path):
    (tmp_path / 'epoch_3.pth').write_bytes(b'half')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    cfg = Config(dict(work_dir=str(tmp_path), load_from=None, resume=False))
    cfg.merge_from_dict(config)
    args = parse(command, ['x.py', *options])
    if not options and not resume:
        with pytest.raises(ValueError, match='--resume'):
            work.apply_options(cfg, args)
        return
    work.apply_options(cfg, args)
    assert (cfg.resume, cfg.load_from) == (resume, load_from)


def test_auto_scale_needs_a_base(shapes, tmp_path):
    message = error_of('train', ROOT / DETECTOR, '--work-dir', tmp_path, '--auto-scale-lr', '--cfg-options',
                       *data_options(shapes), 'auto_scale_lr=None')
    assert all(fact in message for fact in ('--auto-scale-lr', '--data', 'base_batch_size'))


@pytest.mark.parametrize('key, backbone', [
    ('init_cfg.checkpoint', dict(
        type='MambaVision', init_cfg=dict(type='Pretrained', checkpoint='http://127.0.0.1:9/x.pth'))),
    ('init_cfg.checkpoint', dict(type='MambaVision', init_cfg=dict(type='Pretrained', checkpoint='no.pth'))),
    ('init_cfg.checkpoint', dict(type='MambaVision', init_cfg=[dict(type='Pretrained', checkpoint='no.pth')])),
    ('pretrained', dict(
        type='MM_mamba_vision', pretrained='/home/author/x.pth.tar', init_cfg=dict(type='Pretrained')))])
def test_weights_that_cannot_be_had_stop_the_run(key, backbone):
    """36 epochs from random weights by mistake cost days; both ways on are named."""
    cfg = Config(dict(work_dir='nowhere', model=dict(backbone=backbone)))
    with pytest.raises(ValueError) as stop:
        work.check_weights(cfg)
    assert f'--cfg-options model.backbone.{key}=' in str(stop.value) and '--from-scratch' in str(stop.value)
    work.apply_options(cfg, parse(command, ['x.py', '--from-scratch']))
    work.check_weights(cfg)
    assert cfg.model.backbone.get('init_cfg') is None and cfg.model.backbone.get('pretrained') is None


def test_options_that_would_not_be_obeyed_stop(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), model=dict(backbone=dict(type='MambaVision'))))
    with pytest.raises(ValueError, match=facts('--from-scratch', '--weights')):
        work.apply_options(cfg, parse(command, ['x.py', '--from-scratch', '--weights', 'x.pth']))
    assert work.has_own_data(parse(command, ['x.py', '--holdout', '0.2']))
    with pytest.raises(ValueError, match='data'):
        own_data.prepare(cfg, holdout=.2)


@pytest.mark.parametrize('how', ['resume', 'load_from'])
def test_weights_that_are_not_needed_stop_nothing(how, tmp_path):
    """An interrupted run goes on where the weights it began with cannot be had any more; a new one asks for them."""
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    cfg = Config(dict(work_dir=str(tmp_path), model=dict(backbone=dict(
        type='MambaVision', init_cfg=dict(type='Pretrained', checkpoint='no.pth')))))
    if how == 'resume':
        work.apply_options(cfg, parse(command, ['x.py', '--resume']))
        work.check_weights(cfg)
        assert cfg.model.backbone.init_cfg is None and cfg.load_from == str(tmp_path / 'epoch_1.pth')
    else:
        cfg.load_from = str(tmp_path / 'epoch_1.pth')
        with pytest.raises(ValueError, match=facts('no.pth', '--from-scratch')):
            work.check_weights(cfg)


@pytest.mark.parametrize('config, launcher, size, stops', [
    ('upernet_mambavision_t', 'none', 1, True), ('upernet_mambavision_t', 'pytorch', 1, True),
    ('upernet_mambavision_t', 'pytorch', 16, False), ('upernet_mambavision_s', 'none', 1, False),
    ('cascade_mask_rcnn_mambavision_t', 'none', 1, False), ('upernet_mambavision_l3_wholemap', 'none', 1, True)])
def test_one_image_before_a_batch_norm_of_1x1(config, launcher, size, stops, monkeypatch):
    cfg = Config.fromfile(ROOT / 'configs' / f'{config}.py')
    cfg.launcher = launcher
    monkeypatch.setenv('WORLD_SIZE', str(size))
    if not stops:
        return work.check_batch(cfg)
    with pytest.raises(ValueError, match=facts('UPerHead', 'train_dataloader.batch_size=2')):
        work.check_batch(cfg)
    cfg.train_dataloader.batch_size = 2
    work.check_batch(cfg)


@pytest.mark.parametrize('option, value', [
    ('model.backbone.window_size=(0,7)', '(0, 7)'), ('model.backbone.arch=huge', 'huge'),
    ('model.backbone.out_indices=(0,5)', '(0, 5)')])
def test_wrong_backbone_options(shapes, tmp_path, option, value):
    key = option.partition('=')[0].rpartition('.')[2]
    if key == 'arch':
        option = 'model.backbone._delete_=True model.backbone.type=MambaVision ' + option
    message = error_of('train', ROOT / DETECTOR, '--work-dir', tmp_path, '--cfg-options', *data_options(shapes),
                       *option.split())
    assert key in message and value in message
