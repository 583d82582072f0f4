"""A training that was interrupted and resumed has the losses and weights of one that was not, to the last digit."""
import shutil

import pytest
import torch

from mmmambavision.checkpoints.files import read_checkpoint
from mmmambavision.cli.train import main
from mmmambavision.cli.work import train as work
from mmmambavision.errors import UserError

from ..helpers.compare import assert_same_training, assert_same_weights, losses
from ..helpers.data import load, small_detector
from ..helpers.messages import facts
from ..helpers.tiers import full

ITERATIONS = dict(train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=12, val_interval=100),
                  default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp('detector'))


@pytest.fixture
def train(config, monkeypatch):
    """Runs tools/train.py in this process."""
    for module in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # most of the time would go into line breaks
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)

    def run(work_dir, *arguments, status=None, loop='epochs', **options):
        cfg = load(config, **(ITERATIONS if loop == 'iterations' else {}), **options)
        if loop == 'iterations':
            cfg.train_cfg.pop('_delete_', None)
            cfg.train_cfg.pop('max_epochs', None)
            cfg.train_cfg.pop('val_begin', None)
            cfg.train_dataloader.sampler = dict(type=cfg.get('sampler', 'InfiniteSampler'), shuffle=True)
            cfg.log_processor.by_epoch = False
            cfg.param_scheduler = cfg.param_scheduler[:1]
        cfg.launcher, cfg.work_dir = 'none', str(work_dir)
        cfg.visualizer.name = f'{work_dir} {len(list(work_dir.glob("*")))}'  # one of its own, for its own folder
        monkeypatch.setattr(work, 'load_config', lambda *_: cfg)
        if status is None:
            return main(['a config', *arguments])
        with pytest.raises(SystemExit) as stop:
            main(['a config', *arguments])
        assert stop.value.code == status

    return run


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Work dirs of whole trainings by their kind of loop, made when first asked for."""
    return {}, tmp_path_factory.mktemp('uninterrupted')


def reference(train, uninterrupted, loop, **options):
    done, folder = uninterrupted
    if loop not in done:
        done[loop] = folder / loop
        train(done[loop], loop=loop.split()[0], default_hooks__checkpoint__max_keep_ckpts=-1, **options)
    return done[loop]


@pytest.mark.slow
@pytest.mark.parametrize('loop, interrupted, before, after', [
    full('epochs', 4, 1, 2), ('epochs', 7, 2, 'persistent'), full('epochs', 5, 'persistent', 0),
    ('iterations', 6, 0, 2), full('iterations', 7, 'persistent', 'persistent'),
    full('iterations DefaultSampler', 6, 1, 0)])
def test_interrupted(loop, interrupted, before, after, train, uninterrupted, tmp_path):
    """By a signal, before and in an epoch's middle and at its end, with as many workers before and after."""
    options = dict(sampler='DefaultSampler') if 'Default' in loop else {}
    whole = reference(train, uninterrupted, loop, **options)
    options['loop'] = loop.split()[0]

    def workers(number):
        return dict(train_dataloader__num_workers=1 if number == 'persistent' else number,
                    train_dataloader__persistent_workers=number == 'persistent')

    fault = dict(type='SignalAt', iteration=interrupted)
    train(tmp_path, status=75, custom_hooks=[fault], **workers(before), **options)
    assert len(losses(tmp_path)) == interrupted
    train(tmp_path, '--resume', **workers(after), **options)
    assert_same_training(tmp_path, whole, 'epoch_3.pth' if loop == 'epochs' else 'iter_12.pth')


@pytest.mark.slow
@pytest.mark.parametrize('loop', ['epochs', full('iterations')])
def test_from_a_regular_checkpoint(loop, train, uninterrupted, tmp_path):
    whole = reference(train, uninterrupted, loop)
    shutil.copytree(whole, tmp_path / 'again', ignore=shutil.ignore_patterns('*_[238].pth', '*_12.pth', '2*'))
    path, = (tmp_path / 'again').glob('*.pth')
    contents = read_checkpoint(path)
    contents['meta'].pop('batches_of_epoch', None)  # which checkpoints of earlier versions have not
    torch.save(contents, path)
    train(tmp_path / 'again', '--resume', loop=loop)
    assert losses(tmp_path / 'again') == losses(whole)[4:]
    name = 'epoch_3.pth' if loop == 'epochs' else 'iter_12.pth'
    assert_same_weights(tmp_path / 'again' / name, whole / name)


@pytest.mark.slow
@pytest.mark.parametrize('kept, words', [('backbone.', ['fills', 'missing']), ('', ['classes'])])
def test_weights_that_are_not_the_models_stop(kept, words, train, uninterrupted, tmp_path):
    """Half of them, and those of other classes."""
    contents = read_checkpoint(reference(train, uninterrupted, 'epochs') / 'epoch_1.pth')
    contents['state_dict'] = {name: value[1:] if not kept and 'fc_cls' in name else value
                              for name, value in contents['state_dict'].items() if name.startswith(kept)}
    torch.save(contents, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=facts(*words)):
        train(tmp_path / 'again', '--resume', str(tmp_path / 'x.pth'))
