"""What is put into a config, and its parts by themselves."""
import io
import logging
import os
import random
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.optim import CosineAnnealingLR, MultiStepLR, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import set_random_seed

from mmmambavision.cli.hints import with_hint
from mmmambavision.errors import UserError
from mmmambavision.interrupts import TRY_AGAIN
from mmmambavision.openmmlab.training import determinism, make_safe, signals
from mmmambavision.openmmlab.training.checkpoints import AtomicBackend, checkpoints, latest_checkpoint, put_into
from mmmambavision.openmmlab.training.resume import ResumeHook, SeededBatchSampler, use_earlier_seed

from ..helpers.messages import facts
from ..helpers.process import ROOT


@pytest.mark.parametrize('name, loop', [
    ('cascade_mask_rcnn_mambavision_t', 'Epoch'), ('upernet_mambavision_t', 'Iter'),
    ('classification/mambavision_demo', 'Epoch')])
def test_recipes(name, loop):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.work_dir, batch_sampler = 'nowhere', cfg.train_dataloader.get('batch_sampler')
    make_safe(cfg)
    assert cfg.train_cfg.type == f'Resumable{loop}BasedTrainLoop' and 'by_epoch' not in cfg.train_cfg
    assert cfg.train_dataloader.batch_sampler.type == 'SeededBatchSampler'
    assert cfg.train_dataloader.batch_sampler.batch_sampler == batch_sampler
    assert cfg.default_hooks.checkpoint.backend_args == dict(backend='atomic')
    assert {'SignalHook', 'ResumeHook'} <= {hook.type for hook in cfg.custom_hooks}
    before = cfg.to_dict()
    make_safe(cfg)  # a config that an earlier run has left in its work dir
    assert cfg.to_dict() == before


def test_what_a_config_sets_itself_stays():
    own = dict(worker_init_fn=dict(type='mine'), batch_size=2)
    cfg = Config(dict(
        work_dir='nowhere', train_cfg=dict(type='MyLoop'), train_dataloader=own, val_dataloader=dict(own),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', out_dir='s3://there')), randomness=dict(seed=5)))
    before = cfg.to_dict()
    make_safe(cfg)
    for key in ('train_cfg', 'train_dataloader', 'val_dataloader', 'default_hooks', 'randomness'):
        assert cfg.to_dict()[key] == before[key], key


def test_the_seed_of_the_earlier_run(tmp_path):
    torch.save(dict(state_dict={}, meta=dict(seed=17)), tmp_path / 'epoch_1.pth')
    for own, expected in ((dict(randomness=dict(seed=None)), 17), (dict(randomness=dict(seed=3)), 3), ({}, 17),
                          (dict(randomness=dict(deterministic=True)), 17)):
        cfg = Config(dict(resume=True, load_from=str(tmp_path / 'epoch_1.pth'), **own))
        use_earlier_seed(cfg)
        assert cfg.randomness.seed == expected
    cfg = Config(dict(randomness=dict(deterministic=True)))  # as the page advises
    use_earlier_seed(cfg)
    assert cfg.randomness == dict(deterministic=True, seed=None)


def test_operators_that_are_not_deterministic_warn(monkeypatch):
    """mmengine asks torch for an error at each."""
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    plain, cfg = Config(dict()), Config(dict(randomness=dict(deterministic=True, seed=1)))
    for config in (plain, cfg):
        determinism.put_into(config)
    assert 'custom_hooks' not in plain and os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    hook, said = HOOKS.build(cfg.custom_hooks[0]), []
    try:
        set_random_seed(1, deterministic=True)
        with pytest.raises(RuntimeError, match='deterministic'):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        hook.before_run(SimpleNamespace(logger=SimpleNamespace(warning=said.append)))
        with pytest.warns(UserWarning, match='deterministic'):
            assert torch.zeros(3).put_(torch.tensor([1, 1]), torch.ones(2)).tolist() == [0, 1, 0]
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    assert len(said) == 1 and 'docs/reliability.md' in said[0]
    hook.before_run(SimpleNamespace())  # where nobody asked for determinism it does nothing
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='on a CPU these operators are deterministic')
@pytest.mark.parametrize('operator', ['roi_align', 'grid_sample', 'cumsum'])
def test_detectors_operators_under_determinism_on_a_gpu(operator):
    from mmcv.ops import roi_align
    maps = torch.randn(1, 2, 8, 8, device='cuda', requires_grad=True)
    boxes = torch.tensor([[0., 0, 0, 5, 5]], device='cuda')
    points = torch.rand(1, 3, 3, 2, device='cuda')
    call = dict(roi_align=lambda: roi_align(maps, boxes, 2), cumsum=lambda: maps.cumsum(2),
                grid_sample=lambda: torch.nn.functional.grid_sample(maps, points, align_corners=False))[operator]
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        call().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert maps.grad.isfinite().all()


def resumed(said, optimizer=torch.optim.AdamW, groups=1, end=8, schedule=CosineAnnealingLR, **options):
    """A runner at the beginning, and what its checkpoint would hold."""
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    wrapped = OptimWrapper(optimizer([dict(params=parameters)] if groups == 1 else [
        dict(params=[parameter]) for parameter in parameters], **{'lr': .1, 'weight_decay': .05, **options}))
    own = dict(milestones=[end - 1]) if schedule is MultiStepLR else dict(T_max=end)
    schedules = [schedule(wrapped, end=end, **own)]
    runner = SimpleNamespace(optim_wrapper=wrapped, param_schedulers=schedules, _resume=True,
                             logger=SimpleNamespace(warning=said.append))
    return runner, dict(meta=dict(iter=3), message_hub={}, optimizer=wrapped.state_dict(),
                        param_schedulers=[part.state_dict() for part in schedules])


@pytest.mark.parametrize('before, now, words', [
    ({}, {}, None), ({}, dict(lr=.2), ['optim_wrapper.optimizer.lr', '0.2', '0.1', 'weights']),
    ({}, dict(end=16), ['param_scheduler.0.T_max', 'param_scheduler.0.end', '16', '8']),
    (dict(groups=2), dict(groups=2, weight_decay=.1), ['optimizer.weight_decay', '0.05', '0.1', '2 groups']),
    (dict(schedule=MultiStepLR), dict(schedule=MultiStepLR, end=9), ['param_scheduler.0.milestones', '[8]', '[7]'])])
def test_settings_that_a_checkpoint_overrides_are_named(before, now, words):
    said = []
    (_, checkpoint), (runner, _) = resumed(said, **before), resumed(said, **now)
    for _ in range(3):  # which changes learning rates and counts, and no setting
        checkpoint['optimizer']['param_groups'][0]['lr'] *= .9
    ResumeHook().after_load_checkpoint(runner, checkpoint)
    assert not said if words is None else re.search(facts(*words), *said)


@pytest.mark.parametrize('now, words', [
    (dict(optimizer=torch.optim.SGD), ['type', 'momentum', 'betas']), (dict(groups=2), ['paramwise_cfg', '2 in 2'])])
def test_an_optimizer_of_another_kind_stops(now, words):
    (_, checkpoint), (runner, _) = resumed([]), resumed([], **now)
    with pytest.raises(UserError, match=facts('weights', *words)):
        ResumeHook().after_load_checkpoint(runner, checkpoint)
    with pytest.raises(UserError, match=facts('weights', 'optimizer')):  # weights alone
        ResumeHook().after_load_checkpoint(runner, dict(state_dict={}, meta={}))


@pytest.mark.parametrize('hooks', [{}, dict(default_hooks={}), dict(default_hooks=dict(timer=dict(type='x')))])
def test_checkpoints_of_a_config_that_says_nothing_of_them(hooks):
    cfg = Config(dict(work_dir='nowhere', **hooks))
    put_into(cfg)
    assert cfg.default_hooks.checkpoint == dict(
        type='CheckpointHook', interval=1, backend_args=dict(backend='atomic'))


def numbers(sampler):
    """Indices of all batches, each with what is drawn for it."""
    return [[(index, random.random(), np.random.rand(), torch.rand(1).item()) for index in batch] for batch in sampler]


def test_batches():
    sampler = SeededBatchSampler(DefaultSampler(range(10), seed=1), 3)
    assert len(sampler) == 4 and numbers(sampler) == []
    sampler.start(7, 100, 0)
    whole = numbers(sampler)
    assert sorted(index for batch in whole for index, *_ in batch) == list(range(10))
    assert len({drawn for batch in whole for _, *drawn in batch for drawn in drawn}) == 30
    assert [index for index, *_ in whole[0]] == torch.randperm(10, generator=torch.manual_seed(1))[:3].tolist()
    sampler.start(7, 102, 2)
    assert numbers(sampler) == whole[2:]
    assert [[index for index, *_ in batch] for batch in numbers(sampler)] == [
        [index for index, *_ in batch] for batch in whole]
    sampler.start(8, 100, 0)
    assert numbers(sampler)[0][0][1:] != whole[0][0][1:]


def test_files_are_whole(tmp_path, monkeypatch):
    first, second = tmp_path / 'a' / 'epoch_1.pth', tmp_path / 'a' / 'epoch_2.pth'
    stream = io.BytesIO()
    torch.save({}, stream)
    AtomicBackend().put(stream.getvalue(), first)
    AtomicBackend().remove(first)
    assert first.read_bytes() == stream.getvalue()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
        with pytest.raises(UserError) as stop:
            AtomicBackend().put(b'two', second)
        for fact in (str(second), 'No space left on device', str(first), '--resume'):
            assert fact in with_hint(stop.value)
        with pytest.raises(UserError) as stop:
            AtomicBackend().put(b'two', tmp_path / 'b' / 'epoch_1.pth')
        assert str(tmp_path / 'b' / 'epoch_1.pth') in str(stop.value) and '--resume' not in with_hint(stop.value)
    assert os.listdir(first.parent) == [first.name] and not os.listdir(tmp_path / 'b')
    AtomicBackend().put(b'two', second)
    assert os.listdir(first.parent) == [second.name]
    AtomicBackend().remove(second)
    AtomicBackend().put(b'three', second)
    assert second.read_bytes() == b'three'


def test_the_last_checkpoint(tmp_path):
    for number, name in enumerate(('epoch_2.pth', 'interrupted.pth', 'epoch_3.pth', 'epoch_4.pth.part')):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    assert [path.name for path in checkpoints(tmp_path)] == ['epoch_3.pth', 'interrupted.pth', 'epoch_2.pth']
    (tmp_path / 'epoch_3.pth').write_bytes(b'half')
    os.utime(tmp_path / 'epoch_3.pth', (9, 9))
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'interrupted.pth')


def wrapper(every):
    return OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.), accumulative_counts=every)


class Runner(SimpleNamespace):
    """As much of a runner as `SignalHook` asks, with the checkpoints that it is told to save."""
    work_dir, epoch, logger = 'nowhere', 0, logging.getLogger('silent')

    def save_checkpoint(self, folder, name, meta, **_):
        self.saved.append((name, meta['iter']))


@pytest.mark.parametrize('several', [False, True])
def test_the_end_waits_for_the_steps_of_all_optimizers(several):
    wrappers = [wrapper(1), wrapper(2)] if several else [wrapper(2)]
    runner = Runner(optim_wrapper=OptimWrapperDict(a=wrappers[0], b=wrappers[1]) if several else wrappers[0], saved=[])
    hook = signals.SignalHook()

    def iterate(number):
        runner.iter = number
        hook.before_train_iter(runner, 0)
        for part in wrappers:
            part.update_params(part.param_groups[0]['params'][0].sum())
        hook.after_train_iter(runner, 0)

    try:
        iterate(0)
        iterate(1)
        signal.raise_signal(signal.SIGTERM)
        iterate(2)  # half of the gradients of a step
        assert not runner.saved
        with pytest.raises(SystemExit) as end:
            iterate(3)
    finally:
        hook.after_run(runner)
    assert end.value.code == TRY_AGAIN and runner.saved == [(signals.INTERRUPTED, 4)]


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    hook = signals.SignalHook()
    assert [signal.getsignal(number) for number in signals.SIGNALS] != before
    hook.after_run(None)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
