"""A training that is resumed goes on as if it had not been interrupted.

Everything random of an iteration is drawn from generators that are seeded by the training's seed and the iteration's
number: in the process that trains before each iteration, and before each image is loaded, in whichever process loads
it. So no state of a generator has to be saved, which would need that of every worker of a data loader at a moment when
they are ahead of the training; the number of workers makes no difference either.
"""
import random
from collections import Counter
from itertools import count, repeat

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler

from ...checkpoints.files import load_checkpoint
from ...errors import UserError
from ..configs import add_hook
from .signals import guard_workers

ANEW = "to train with the config's, start a new training from the weights of the checkpoint, in another work_dir"
CHANGING = {'lr', 'initial_lr', 'initial_momentum'}  # of a group of parameters, whatever its optimizer
PROGRESS = {'params', 'last_step', '_global_step', '_last_value', 'verbose', 'base_values', 'best', 'num_bad_epochs',
            'cooldown_counter', 'last_epoch'}  # what is no setting
POSITION = 'batches_of_epoch'  # in a checkpoint's meta: how many were trained on in its running epoch, and of how many


def seed_generators(*key):
    """Seed the generators of Python, NumPy and torch, on all devices, with a hash of some whole numbers."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededBatch:
    """Indices of a batch, which seed the generators of the process that loads their images, before each of them."""

    def __init__(self, indices, *key):
        self.indices, self.key = indices, key

    def __len__(self):
        return len(self.indices)

    def __iter__(self):
        for position, index in enumerate(self.indices):
            seed_generators(*self.key, position)
            yield index


@DATA_SAMPLERS.register_module()
class SeededBatchSampler:
    """The batches of another batch sampler, each of which seeds the generators for its images.

    It gives none before `start`: loops make iterators, whose workers begin to load, before they know where they start.

    Args:
        sampler, batch_size: as of torch's BatchSampler.
        batch_sampler: config of the other batch sampler; default torch's.
        drop_last: of torch's.
    """

    def __init__(self, sampler, batch_size, batch_sampler=None, drop_last=False):
        self.batches = DATA_SAMPLERS.build(
            batch_sampler or dict(type=BatchSampler, drop_last=drop_last),
            default_args=dict(sampler=sampler, batch_size=batch_size))
        self.sampler, self.batch_size = sampler, batch_size
        self.started = False

    def start(self, seed, iteration, passed_over):
        """Go on at an iteration of the training, passing over so many batches, which are not loaded."""
        self.seed, self.iteration, self.passed_over, self.started = seed, iteration, passed_over, True

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for indices in self.batches if self.started else ():
            if self.passed_over:
                self.passed_over -= 1
                continue
            # The rank whatever `diff_rank_seed` says, as mmengine seeds workers.
            yield SeededBatch(indices, self.seed, get_rank(), self.iteration)
            self.iteration += 1


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop, which goes on in the middle of an epoch; `done` counts the epoch's batches trained on."""

    done = 0

    def run(self):
        self.dataloader.batch_sampler.start(self.runner.seed, self._iter, self.done)
        return super().run()

    def run_epoch(self):
        super().run_epoch()
        self.done = 0

    def run_iter(self, idx, data_batch):
        super().run_iter(self.done, data_batch)
        self.done += 1


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(IterBasedTrainLoop):
    """mmengine's loop, which loads none of the batches that were trained on before."""

    def run(self):
        self.dataloader.batch_sampler.start(self.runner.seed, self._iter, self._iter)
        self.dataloader_iterator = self._batches()
        return super().run()

    def _batches(self):
        """All batches from where training goes on, after the nothings that mmengine takes for the earlier ones."""
        yield from repeat(None, self._iter)
        for epoch in count():
            if epoch and hasattr(self.dataloader.batch_sampler.sampler, 'set_epoch'):
                self.dataloader.batch_sampler.sampler.set_epoch(epoch)
            yield from self.dataloader


@HOOKS.register_module()
class ResumeHook(Hook):
    """Seeds the generators before each iteration, and keeps the place in the epoch in checkpoints."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_generators(runner.seed, runner.iter)  # of which the rank is a part where `diff_rank_seed` asks for it

    def before_save_checkpoint(self, runner, checkpoint):
        loop, meta = runner.train_loop, checkpoint['meta']
        if isinstance(loop, ResumableEpochBasedTrainLoop):
            done = loop.done + meta['iter'] - loop.iter if meta['epoch'] == loop.epoch else 0
            meta[POSITION] = [done, len(loop.dataloader)]

    def after_load_checkpoint(self, runner, checkpoint):
        meta = checkpoint.get('meta') or {}
        if runner._resume:
            check_resumable(runner, checkpoint)
            warn_of_kept_settings(runner, checkpoint)
        done, batches = meta.get(POSITION, (0, 0))
        if not runner._resume or not done:
            return
        if batches == len(runner.train_loop.dataloader):
            runner.train_loop.done = done
        else:
            runner.logger.warning(
                f'the checkpoint is of batch {done} of {batches} in an epoch, which has '
                f'{len(runner.train_loop.dataloader)} now: the epoch is begun again')


def check_resumable(runner, checkpoint):
    """See that a training can go on from a checkpoint.

    Raises:
        UserError: it holds weights alone, or the state of an optimizer of another kind or for other parameters.
    """
    missing = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    if missing or 'iter' not in (checkpoint.get('meta') or {}):
        raise UserError(f"the checkpoint has no {' and no '.join(missing) or 'iteration'}, so no training can be "
                        f'resumed from it; {ANEW}', 'new_start')
    states = runner.optim_wrapper.state_dict(), checkpoint['optimizer']
    now, before = (dict(flat(groups_of(state))) for state in states)
    kinds = [{key.split('.')[-1] for key in keys} - CHANGING for keys in (now, before)]
    if not (kinds[0] <= kinds[1] or kinds[1] <= kinds[0]):  # versions of torch add keys
        raise UserError(f"the checkpoint's optimizer is of another type than the config's: one alone has "
                        f"{', '.join(sorted(kinds[0] ^ kinds[1]))}; {ANEW}", 'new_start')
    sizes = [{key: len(value) for key, value in state.items() if key.endswith('params')} for state in (now, before)]
    if sizes[0] != sizes[1]:
        groups, parameters = ([count(size) for size in sizes] for count in (len, lambda size: sum(size.values())))
        raise UserError(
            f"the checkpoint's optimizer has {parameters[1]} parameters in {groups[1]} groups, the config's "
            f'{parameters[0]} in {groups[0]}: the paramwise_cfg or constructor of optim_wrapper, or what is frozen, '
            f'differs; {ANEW}', 'new_start')


def warn_of_kept_settings(runner, checkpoint):
    """Warn of settings of the optimizer and of its schedules that differ from the checkpoint's, which are used.

    Args:
        runner: mmengine's, with the optimizer and schedules that the config asks for.
        checkpoint: what is resumed from.
    """
    def states(schedules):
        if isinstance(schedules, dict):
            return {name: states(part) for name, part in schedules.items()}
        return [part if isinstance(part, dict) else part.state_dict() for part in schedules or ()]

    now, before = (dict(flat(dict(optimizer=groups_of(optimizer), param_scheduler=schedules))) for optimizer, schedules
                   in ((runner.optim_wrapper.state_dict(), states(runner.param_schedulers)),
                       (checkpoint['optimizer'], checkpoint.get('param_schedulers') or [])))
    changed = Counter()
    for key in sorted(now.keys() | before.keys()):
        *parts, name = key.split('.')
        values = now.get(key), before.get(key)
        if name in PROGRESS or values[0] == values[1] or (name == 'lr' and '.'.join([*parts, 'initial_lr']) in now):
            continue
        if parts[0] == 'optimizer' and None in values:  # what only one version of torch knows
            continue
        if parts[0] == 'optimizer':  # without the group's number, since often each parameter has one
            key = '.'.join(['optim_wrapper', *parts[:-1], name.removeprefix('initial_')])
        changed[f'{key} is {values[0]!r} in the config and {values[1]!r} in the checkpoint'] += 1
    if changed:
        texts = [text + f' ({count} groups of parameters)' * (count > 1) for text, count in changed.items()]
        runner.logger.warning(
            f"a resumed training keeps the checkpoint's optimizer and schedules, the times of which may be iterations: "
            f"{'; '.join(texts)}. {ANEW[0].upper()}{ANEW[1:]}")


def groups_of(state):
    """The groups of parameters in the state of an optimizer, or in those of several by their names."""
    return state['param_groups'] if 'param_groups' in state else {
        name: part['param_groups'] for name, part in state.items()}


def flat(node, key=''):
    """(dotted key, value) of nested dicts and lists of dicts; counted values, such as milestones, as a list."""
    if isinstance(node, Counter):
        yield key, sorted(node.elements())
    elif isinstance(node, dict) or (isinstance(node, list) and all(isinstance(part, dict) for part in node)):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flat(part, f'{key}.{name}' if key else str(name))
    else:
        yield key, list(node) if isinstance(node, tuple) else node


def put_into(cfg):
    """Have a config's training resume exactly, if its loop is one of mmengine's two."""
    use_earlier_seed(cfg)
    loop, loader = cfg.get('train_cfg'), cfg.get('train_dataloader')
    if not loop or not loader:
        return
    if 'type' not in loop:
        loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    name = getattr(loop.type, '__name__', loop.type).split('.')[-1]
    if name not in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
        return
    loop['type'] = f'Resumable{name}'
    loader['batch_sampler'] = dict(
        type='SeededBatchSampler', batch_sampler=loader.get('batch_sampler'), drop_last=loader.pop('drop_last', False))
    guard_workers(loader)
    add_hook(cfg, 'ResumeHook')


def use_earlier_seed(cfg):
    """Have a training that is resumed, and whose config names no seed, draw as it began; mmengine would set the
    earlier seed after it has made the samplers."""
    cfg.setdefault('randomness', {})  # which stores a copy and returns the dict
    cfg.randomness.setdefault('seed', None)  # without which mmengine takes no `deterministic`
    if cfg.get('resume') and cfg.get('load_from') and cfg.randomness.seed is None:
        cfg.randomness['seed'] = (load_checkpoint(cfg.load_from).get('meta') or {}).get('seed')
