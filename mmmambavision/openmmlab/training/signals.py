"""On a signal or Ctrl-C, write a checkpoint and end the training with a special exit status."""
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import FUNCTIONS, HOOKS

from ...interrupts import SIGNALS, end_before_training, status_of, wanted
from ..configs import add_hook
from .checkpoints import BACKEND, INTERRUPTED

TOGETHER = 5  # seconds: signals within this time count as one, because both Slurm and torchrun send them
EVERY = 10  # validation iterations between two checks for a signal, because a check synchronizes all processes


@HOOKS.register_module()
class SignalHook(Hook):
    """End the training after the current iteration if any process receives SIGTERM, SIGUSR1 or SIGINT (Ctrl-C).

    The hook writes the checkpoint `interrupted.pth` to the work dir. All processes end with status 75, or 130 for
    SIGINT. A signal before the first iteration ends the process immediately with the same status. A second signal some
    seconds after the first ends the process immediately without a checkpoint.
    """

    priority = 'LOWEST'  # after the schedulers' steps, the log and the regular checkpoint

    def __init__(self):
        self.received, self.since, self.training, self.process = 0, 0., False, os.getpid()
        self.former = {}
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._receive) for number in wanted()}

    def _receive(self, number, frame):
        if os.getpid() != self.process:  # a forked child, for example of an evaluation pool
            if number == signal.SIGTERM:
                _end_by_default(number)
        elif not self.training:
            end_before_training(number, frame)
        elif not self.received:
            self.received, self.since = number, time.monotonic()
            if number == signal.SIGINT:  # os.write, because the signal may have interrupted print
                os.write(2, f'\nthe training ends after this iteration; press Ctrl-C after {TOGETHER} seconds to end '
                            'it immediately\n'.encode())
        elif time.monotonic() - self.since > TOGETHER:
            _end_by_default(number)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.training = True

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        # Wait for the optimizer step: a checkpoint does not store accumulated gradients.
        if all(getattr(part, 'should_update', lambda: True)() for part in wrappers) and (
                number := self._asked_to_end()):
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def before_val_epoch(self, runner):
        self.shortest = over_processes(len(runner.val_dataloader), 'min')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.training and batch_idx % EVERY == 0 and batch_idx < self.shortest and (
                number := self._asked_to_end()):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # swap the exponential moving average back to the trained weights
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def after_val_epoch(self, runner, metrics=None):
        if self.training and (number := self._asked_to_end()):
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def after_run(self, runner):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _asked_to_end(self):
        """The signal that any process received, or 0. All processes must call this together."""
        return over_processes(self.received, 'max')

    def _end(self, runner, number, meta):
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False, backend_args=BACKEND)
        barrier()  # a launcher kills all processes when the first one ends
        runner.logger.warning(
            f'ended by {signal.Signals(number).name} after iteration {meta["iter"]}: resume from '
            f'{Path(runner.work_dir, INTERRUPTED)}')
        raise SystemExit(status_of(number))


def over_processes(number, op):
    """The 'min' or 'max' of an integer over all processes."""
    value = torch.tensor(int(number))
    all_reduce(value, op)
    return value.item()


def _end_by_default(number):
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _wait_for_the_end():
    """End this process on SIGTERM from its parent. The data loader ends its workers this way."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


@FUNCTIONS.register_module()
def init_worker(worker_id, disable_subprocess_warning=False):
    """Make a data loader worker ignore signals that Slurm sends to all processes.

    Without its workers the training could not finish the iteration.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # Linux only: it reports the sender of a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_the_end, daemon=True).start()
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter('ignore')


def guard_workers(loader):
    """Make a data loader's config use `init_worker`, unless it sets its own `worker_init_fn`."""
    if loader and 'worker_init_fn' not in loader:
        loader['worker_init_fn'] = dict(
            type='init_worker', disable_subprocess_warning=loader.pop('disable_subprocess_warning', False))


def put_into(cfg):
    """Add `SignalHook` to a config, and protect its validation workers from signals."""
    add_hook(cfg, 'SignalHook')
    guard_workers(cfg.get('val_dataloader'))
