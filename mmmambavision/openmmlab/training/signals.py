"""A training that is asked to end, by a signal or Ctrl-C, writes a checkpoint and ends with a status that says so."""
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

TOGETHER = 5  # seconds in which signals are one: torchrun passes on what Slurm sends to all processes anyway
EVERY = 10  # iterations of a validation, which several processes go through in step when they ask each other


@HOOKS.register_module()
class SignalHook(Hook):
    """Ends the training after an iteration in which any process was sent SIGTERM, SIGUSR1 or SIGINT, which is Ctrl-C.

    A checkpoint of that iteration is written to the work dir, `interrupted.pth`, and all processes end with status 75,
    or 130 for SIGINT. A signal before the first iteration ends the process at once with this status, a second signal,
    some seconds after the first, at once without it.
    """

    priority = 'LOWEST'  # after the schedulers' steps, the log and the regular checkpoint

    def __init__(self):
        self.received, self.since, self.training, self.process = 0, 0., False, os.getpid()
        self.former = {}
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._receive) for number in wanted()}

    def _receive(self, number, frame):
        if os.getpid() != self.process:  # a forked child, such as one of an evaluation's pool
            if number == signal.SIGTERM:
                _end_by_default(number)
        elif not self.training:
            end_before_training(number, frame)
        elif not self.received:
            self.received, self.since = number, time.monotonic()
            if number == signal.SIGINT:  # somebody is looking; os.write because print may be what was interrupted
                os.write(2, f'\nends after this iteration; Ctrl-C after {TOGETHER} seconds: at once\n'.encode())
        elif time.monotonic() - self.since > TOGETHER:
            _end_by_default(number)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.training = True

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        # Gradients that are being accumulated are in no checkpoint.
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
                    hook.after_val_epoch(runner)  # has the trained weights take the place of their average again
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def after_val_epoch(self, runner, metrics=None):
        if self.training and (number := self._asked_to_end()):
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

    def after_run(self, runner):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _asked_to_end(self):
        """The signal that any process was sent, or 0, which all processes have to ask together."""
        return over_processes(self.received, 'max')

    def _end(self, runner, number, meta):
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False, backend_args=BACKEND)
        barrier()  # launchers end the other processes when one has ended
        runner.logger.warning(
            f'ended by {signal.Signals(number).name} after iteration {meta["iter"]}: resume from '
            f'{Path(runner.work_dir, INTERRUPTED)}')
        raise SystemExit(status_of(number))


def over_processes(number, op):
    """The 'min' or 'max' of a whole number over all processes."""
    value = torch.tensor(int(number))
    all_reduce(value, op)
    return value.item()


def _end_by_default(number):
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _wait_for_the_end():
    """End this process by a SIGTERM of its parent, which is how workers of a data loader are ended."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


@FUNCTIONS.register_module()
def init_worker(worker_id, disable_subprocess_warning=False):
    """Have a data loader's worker outlive the signals that Slurm sends to all processes: training would end with it."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # Linux's, which says who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_the_end, daemon=True).start()
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter('ignore')


def guard_workers(loader):
    """Have a data loader's config start its workers with `init_worker`, unless it has a function of its own."""
    if loader and 'worker_init_fn' not in loader:
        loader['worker_init_fn'] = dict(
            type='init_worker', disable_subprocess_warning=loader.pop('disable_subprocess_warning', False))


def put_into(cfg):
    """Have a config end by signals as `SignalHook` does."""
    add_hook(cfg, 'SignalHook')
    guard_workers(cfg.get('val_dataloader'))
