"""Losses that are no numbers any more."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.cli.hints import with_hint
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.training.loss import InvalidLossHook, put_into

from ..helpers.data import tiny_segmentor
from ..helpers.process import train


@pytest.fixture
def runner(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    return SimpleNamespace(iter=0, work_dir=str(tmp_path), model=torch.nn.Linear(2, 2))


def give(hook, runner, *losses):
    for loss in losses:
        sample = SimpleNamespace(img_path=f'{runner.iter + 1}.jpg')
        hook.after_train_iter(runner, 0, dict(data_samples=[sample, sample]), dict(loss=torch.tensor(loss)))
        runner.iter += 1


def test_counts_in_a_row(runner):
    hook, nan, inf = InvalidLossHook(patience=3), float('nan'), float('inf')
    give(hook, runner, 1., nan, inf, 2., nan, nan)
    with pytest.raises(UserError) as stop:
        give(hook, runner, -inf)
    message = with_hint(stop.value)
    for fact in ('3 losses', 'iteration 5', '5.jpg, 5.jpg', f'{runner.work_dir}/epoch_1.pth', '--resume',
                 'optim_wrapper.optimizer.lr', 'optim_wrapper.clip_grad', 'precision'):
        assert fact in message


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_no_checkpoint_of_weights_that_are_lost(runner, value):
    hook, checkpoint = InvalidLossHook(), dict(meta=dict(iter=8))
    hook.before_save_checkpoint(runner, checkpoint)
    runner.model.register_buffer('mask', torch.tensor(-float('inf')))  # as attention masks are
    hook.before_save_checkpoint(runner, checkpoint)
    runner.model.weight.data[0, 1] = value
    with pytest.raises(UserError, match=r'\bweight\b.*iteration 8'):
        hook.before_save_checkpoint(runner, checkpoint)
    runner.model.weight.data[0, 1] = 0
    runner.model.mask.fill_(float('nan'))
    with pytest.raises(UserError, match='mask'):
        hook.before_save_checkpoint(runner, checkpoint)


@pytest.mark.parametrize('hooks, added', [
    (None, True), ([dict(type='CheckInvalidLossHook', interval=5)], True),
    ([dict(type='InvalidLossHook', patience=7)], False)])
def test_added_unless_the_config_has_it(hooks, added):
    cfg = Config(dict(custom_hooks=hooks))
    put_into(cfg)
    assert cfg.custom_hooks == [*(hooks or []), *[dict(type='InvalidLossHook')] * added]


@pytest.mark.slow
def test_a_training_ends_and_its_last_checkpoint_is_good(tmp_path):
    """The learning rate becomes absurd after four iterations; a checkpoint is written at every second."""
    config = tiny_segmentor(tmp_path, iterations=20, every=2)
    config.write_text(config.read_text() + "\nparam_scheduler = [dict(type='MultiStepLR', milestones=[4], gamma=1e35, "
                                           "by_epoch=False)]\n")
    output = train(config, tmp_path / 'work', status=1)
    *_, error = output.splitlines()
    assert 'Traceback' not in output and error.startswith('error: ')
    left = sorted(path.name for path in (tmp_path / 'work').glob('*.pth'))
    assert left and f'{tmp_path}/work/{left[-1]}' in error
    for name in left:
        weights = read_checkpoint(tmp_path / 'work' / name)['state_dict'].values()
        assert all(torch.isfinite(value).all() for value in weights), name
    *_, error = train(
        config, tmp_path / 'patient', '--cfg-options', 'default_hooks.checkpoint.interval=100', status=1).splitlines()
    assert '3 losses' in error and f'{tmp_path}/data/images/training/' in error and '--resume' not in error
