"""A training that is resumed goes on as if it had not been interrupted.

Everything random of an iteration is drawn from generators that are seeded by the training's seed and the iteration's
number: in the process that trains before each iteration, and before each image is loaded, in whichever process loads
it. So no state of a generator has to be saved, which would need that of every worker of a data loader at a moment when
they are ahead of the training; the number of workers makes no difference either.
"""
import random
from itertools import count, repeat

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler

from ...checkpoints.files import load_checkpoint
from ..configs import add_hook
from .signals import guard_workers

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
            warn_of_kept_settings(runner, meta.get('cfg'))
        done, batches = meta.get(POSITION, (0, 0))
        if not runner._resume or not done:
            return
        if batches == len(runner.train_loop.dataloader):
            runner.train_loop.done = done
        else:
            runner.logger.warning(
                f'the checkpoint is of batch {done} of {batches} in an epoch, which has '
                f'{len(runner.train_loop.dataloader)} now: the epoch is begun again')


def warn_of_kept_settings(runner, text):
    """Warn of settings of the optimizer and of its schedules that differ from the checkpoint's, which are used.

    Args:
        runner: mmengine's, with the config that was asked for.
        text: the config in the checkpoint, as mmengine writes it; None where there is none.
    """
    if not text:
        return
    try:
        before, now = (dict(flat(cfg)) for cfg in (Config.fromstring(text, '.py'), runner.cfg))
    except (SyntaxError, NameError, OSError):  # written by something else than mmengine
        return
    changed = [f'{key} is {now.get(key)!r} in the config and {before.get(key)!r} in the checkpoint'
               for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        runner.logger.warning(
            f"a resumed training keeps the checkpoint's optimizer and schedules: {'; '.join(changed)}. To train with "
            "the config's, start from the weights alone, in a new work dir: --weights CHECKPOINT --work-dir NEW_FOLDER")


def flat(cfg):
    """(dotted key, value) of what a checkpoint's state of optimizer and schedules overrides."""
    def parts(node, key):
        if isinstance(node, dict):
            node = node.items()
        elif isinstance(node, (list, tuple)) and any(isinstance(part, dict) for part in node):
            node = enumerate(node)
        else:
            yield key, tuple(node) if isinstance(node, list) else node
            return
        for name, part in node:
            yield from parts(part, f'{key}.{name}')

    yield from parts((cfg.get('optim_wrapper') or {}).get('optimizer') or {}, 'optim_wrapper.optimizer')
    yield from parts(cfg.get('param_scheduler') or [], 'param_scheduler')


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
