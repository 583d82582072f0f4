"""Resume a training exactly, as if it had not been interrupted.

The training process seeds its random generators before each iteration, from the seed and the iteration number. A
process that loads images seeds its generators before each image. So a checkpoint needs no generator states, and the
result does not depend on the number of workers. Saved states would not work, because the data loader workers are ahead
of the training.
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

ANEW = "to use the config's settings, start a new training from the weights of the checkpoint, in another work_dir"
CHANGING = {'lr', 'initial_lr', 'initial_momentum'}  # keys that schedules add to any optimizer's parameter groups
PROGRESS = {'params', 'last_step', '_global_step', '_last_value', 'verbose', 'base_values', 'best', 'num_bad_epochs',
            'cooldown_counter', 'last_epoch'}  # keys of progress, not settings
POSITION = 'batches_of_epoch'  # key in a checkpoint's meta: [finished batches of the current epoch, all batches]


def seed_generators(*key):
    """Seed the generators of Python, NumPy and torch on all devices with a hash of integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededBatch:
    """Indices of a batch. Iterating over them seeds the generators of the loading process before each image."""

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
    """Wrap a batch sampler and return its batches as `SeededBatch`.

    It returns no batches before `start`. Loops create iterators, and workers begin to load, before the start position
    is known.

    Args:
        sampler, batch_size: as in torch's BatchSampler.
        batch_sampler: config of the wrapped batch sampler; default torch's BatchSampler.
        drop_last: as in torch's BatchSampler.
    """

    def __init__(self, sampler, batch_size, batch_sampler=None, drop_last=False):
        self.batches = DATA_SAMPLERS.build(
            batch_sampler or dict(type=BatchSampler, drop_last=drop_last),
            default_args=dict(sampler=sampler, batch_size=batch_size))
        self.sampler, self.batch_size = sampler, batch_size
        self.started = False

    def start(self, seed, iteration, passed_over):
        """Continue at an iteration. Skip `passed_over` batches without loading them."""
        self.seed, self.iteration, self.passed_over, self.started = seed, iteration, passed_over, True

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for indices in self.batches if self.started else ():
            if self.passed_over:
                self.passed_over -= 1
                continue
            # Always include the rank, even without `diff_rank_seed`, as mmengine does for workers.
            yield SeededBatch(indices, self.seed, get_rank(), self.iteration)
            self.iteration += 1


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop that can continue in the middle of an epoch. `done` counts the epoch's finished batches."""

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
    """mmengine's loop that does not load finished batches again."""

    def run(self):
        self.dataloader.batch_sampler.start(self.runner.seed, self._iter, self._iter)
        self.dataloader_iterator = self._batches()
        return super().run()

    def _batches(self):
        """None for each finished batch, because mmengine skips that many, then the remaining batches."""
        yield from repeat(None, self._iter)
        for epoch in count():
            if epoch and hasattr(self.dataloader.batch_sampler.sampler, 'set_epoch'):
                self.dataloader.batch_sampler.sampler.set_epoch(epoch)
            yield from self.dataloader


@HOOKS.register_module()
class ResumeHook(Hook):
    """Seed the generators before each iteration, and save the position in the epoch in checkpoints."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_generators(runner.seed, runner.iter)  # runner.seed includes the rank if `diff_rank_seed` is set

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
                f'the checkpoint is from batch {done} of {batches} in an epoch, but the epoch has '
                f'{len(runner.train_loop.dataloader)} batches now. The epoch starts again')


def check_resumable(runner, checkpoint):
    """Check that a training can resume from a checkpoint.

    Raises:
        UserError: the checkpoint has only weights, or its optimizer has another type or other parameters.
    """
    missing = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    if missing or 'iter' not in (checkpoint.get('meta') or {}):
        raise UserError(f"the checkpoint has no {' and no '.join(missing) or 'iteration'}, so a training cannot resume "
                        f'from it; {ANEW}', 'new_start')
    states = runner.optim_wrapper.state_dict(), checkpoint['optimizer']
    now, before = (dict(flat(groups_of(state))) for state in states)
    kinds = [{key.split('.')[-1] for key in keys} - CHANGING for keys in (now, before)]
    if not (kinds[0] <= kinds[1] or kinds[1] <= kinds[0]):  # versions of torch add keys
        raise UserError(f"the checkpoint's optimizer has another type than the config's: only one of them has "
                        f"{', '.join(sorted(kinds[0] ^ kinds[1]))}; {ANEW}", 'new_start')
    sizes = [{key: len(value) for key, value in state.items() if key.endswith('params')} for state in (now, before)]
    if sizes[0] != sizes[1]:
        groups, parameters = ([count(size) for size in sizes] for count in (len, lambda size: sum(size.values())))
        raise UserError(
            f"the checkpoint's optimizer has {parameters[1]} parameters in {groups[1]} groups, the config's optimizer "
            f'has {parameters[0]} in {groups[0]}: the paramwise_cfg or constructor of optim_wrapper, or the frozen '
            f'layers, differ; {ANEW}', 'new_start')


def warn_of_kept_settings(runner, checkpoint):
    """Warn about optimizer and schedule settings that differ from the checkpoint. The checkpoint's settings are used.

    Args:
        runner: mmengine's Runner, with the optimizer and schedules of the config.
        checkpoint: the checkpoint to resume from.
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
        if parts[0] == 'optimizer' and None in values:  # only one version of torch has this key
            continue
        if parts[0] == 'optimizer':  # without the group index, because often each parameter has its own group
            key = '.'.join(['optim_wrapper', *parts[:-1], name.removeprefix('initial_')])
        changed[f'{key} is {values[0]!r} in the config and {values[1]!r} in the checkpoint'] += 1
    if changed:
        texts = [text + f' ({count} groups of parameters)' * (count > 1) for text, count in changed.items()]
        runner.logger.warning(
            f"a resumed training keeps the checkpoint's optimizer and schedules (times can be in iterations): "
            f"{'; '.join(texts)}. {ANEW[0].upper()}{ANEW[1:]}")


def groups_of(state):
    """The parameter groups of an optimizer state, or a dict of them for several optimizers."""
    return state['param_groups'] if 'param_groups' in state else {
        name: part['param_groups'] for name, part in state.items()}


def flat(node, key=''):
    """Yield (dotted key, value) of nested dicts and lists of dicts. A Counter (e.g. milestones) becomes a list."""
    if isinstance(node, Counter):
        yield key, sorted(node.elements())
    elif isinstance(node, dict) or (isinstance(node, list) and all(isinstance(part, dict) for part in node)):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flat(part, f'{key}.{name}' if key else str(name))
    else:
        yield key, list(node) if isinstance(node, tuple) else node


def put_into(cfg):
    """Make a config's training resume exactly, if it uses one of mmengine's two loops."""
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
    """Copy the checkpoint's seed into the config of a resumed training without a seed.

    mmengine would set this seed only after it has built the samplers.
    """
    cfg.setdefault('randomness', {})  # stores a copy, so read the stored dict below
    cfg.randomness.setdefault('seed', None)  # mmengine ignores `deterministic` without this key
    if cfg.get('resume') and cfg.get('load_from') and cfg.randomness.seed is None:
        cfg.randomness['seed'] = (load_checkpoint(cfg.load_from).get('meta') or {}).get('seed')
