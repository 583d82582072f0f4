"""Sharded training in two processes: losses, checkpoints, signals and refusals."""
import json
import math

import pytest
import torch
from mmengine.config import Config

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.cli.hints import with_hint
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.training import use_shards
from mmmambavision.openmmlab.training.sharded import shard

from ..helpers.compare import assert_same_weights, losses, weights
from ..helpers.data import small_detector, tiny_segmentor
from ..helpers.process import ranks, train


def train_both(config, folder, *options, status=0):
    """Train in two processes to the end; returns the work dir and the output of the first process."""
    folder.mkdir(exist_ok=True)
    both = ranks(config, folder / 'work_dir', *options)
    outputs = [process.ends(status, 180) for process in both]
    return folder / 'work_dir', outputs[0]


def assert_close_training(work_dir, other, name, tolerance=1e-5):
    """Equal losses and norms of gradients, and a checkpoint of whole tensors with equal weights."""
    records, expected = ([json.loads(line) for line in losses(folder)] for folder in (work_dir, other))
    assert len(records) == len(expected) >= 4
    for record, wanted in zip(records, expected):
        assert record.keys() == wanted.keys()
        for key, value in wanted.items():
            assert math.isclose(record[key], value, rel_tol=tolerance, abs_tol=tolerance), (key, record, wanted)
    mine, theirs = (weights(folder / name) for folder in (work_dir, other))
    assert [key for key, _ in mine] == [key for key, _ in theirs]
    for (key, value), (_, wanted) in zip(mine, theirs):
        assert type(value) is torch.Tensor and value.shape == wanted.shape, key
        if not key.endswith(('conv1.bias', 'conv2.bias')):  # before a batch norm, Adam follows the sign of rounding
            assert (value - wanted).float().norm() <= 100 * tolerance * max(1, wanted.float().norm()), key


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    path = small_detector(tmp_path_factory.mktemp('detector')).with_name('validated.py')
    path.write_text("_base_ = 'detector.py'\ntrain_cfg = dict(val_interval=2, val_begin=1)\n")
    return path


@pytest.fixture(scope='module')
def sharded(detector, tmp_path_factory):
    return train_both(detector, tmp_path_factory.mktemp('sharded') / 'fsdp', '--fsdp')[0]


@pytest.mark.slow
def test_a_detector_with_shards_and_without(detector, sharded, tmp_path):
    plain, _ = train_both(detector, tmp_path / 'ddp')
    assert_close_training(sharded, plain, 'epoch_3.pth')
    files, others = ({path.name for path in folder.glob('*.pth*')} for folder in (sharded, plain))
    assert files == others >= {'epoch_3.pth'}


@pytest.mark.full
def test_a_segmentor_with_shards_and_without(tmp_path):
    """In bfloat16, with accumulated gradients, activation checkpointing and frozen levels."""
    config = tiny_segmentor(tmp_path, iterations=6)
    settings = ('--amp', '--cfg-options', 'optim_wrapper.accumulative_counts=2', 'model.backbone.with_cp=True',
                'model.backbone.frozen_stages=3')
    runs = [train_both(config, tmp_path / name, *more, *settings)[0] for name, more in
            dict(fsdp=['--fsdp'], ddp=[]).items()]
    assert_close_training(*runs, 'iter_6.pth')
    # One process resumes from the checkpoint of both, and they from its.
    alone = train(config, tmp_path / 'alone', '--resume', runs[0] / 'iter_6.pth', *settings, 'train_cfg.max_iters=8')
    assert 'resumed epoch: 0, iter: 6' in alone
    _, output = train_both(config, tmp_path / 'again', '--fsdp', '--resume', tmp_path / 'alone' / 'iter_8.pth',
                           *settings, 'train_cfg.max_iters=10')
    assert 'resumed epoch: 0, iter: 8' in output


@pytest.mark.full
def test_a_signal_and_an_exact_resume(detector, sharded, tmp_path):
    fault = tmp_path / 'faulty.py'
    fault.write_text(f"_base_ = '{detector}'\ncustom_hooks = [dict(type='SignalAt', iteration=3)]\n")
    work_dir, output = train_both(fault, tmp_path / 'interrupted', '--fsdp', status=75)
    assert 'SIGTERM' in output and 'Traceback' not in output
    meta = read_checkpoint(work_dir / 'interrupted.pth')['meta']
    assert (meta['epoch'], meta['iter'], meta['batches_of_epoch']) == (1, 3, [1, 2])
    _, output = train_both(detector, tmp_path / 'interrupted', '--fsdp', '--resume')
    assert 'resumed epoch: 1, iter: 3' in output
    assert losses(work_dir) == losses(sharded) and len(losses(sharded)) == 6
    assert_same_weights(work_dir / 'epoch_3.pth', sharded / 'epoch_3.pth')


@pytest.mark.parametrize('settings, facts', [
    (dict(launcher='none'), ['torchrun', '--launcher']),
    (dict(runner_type='FlexibleRunner'), ['runner_type']),
    (dict(model_wrapper_cfg=dict(static_graph=True)), ['model_wrapper_cfg']),
    (dict(custom_hooks=[dict(type='mmdet.EMAHook')]), ['EMAHook', 'custom_hooks'])])
def test_refusals(settings, facts):
    with pytest.raises(UserError) as stop:
        use_shards(Config(dict(dict(launcher='pytorch'), **settings)))
    for fact in facts:
        assert fact in with_hint(stop.value)


def test_a_parameter_without_dimensions_is_refused():
    model = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(1.))
    with pytest.raises(UserError, match='scale'):
        shard(model)
