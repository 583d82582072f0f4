"""Hooks that cause faults in a training."""
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SignalAt(Hook):
    """Send a signal to this process, its process group or its parent, in an iteration or in the validation after it."""

    def __init__(self, iteration, name='SIGTERM', to='self', validation=False):
        self.iteration, self.number, self.to = iteration, getattr(signal, name), to
        self.where = 'after_val_iter' if validation else 'before_train_iter'

    def _send(self):
        if self.to != 'parent' or get_rank() == 0:
            receiver = dict(self=os.getpid(), group=-os.getpgid(0), parent=os.getppid())[self.to]
            subprocess.run(['kill', f'-{self.number.value}', '--', str(receiver)])  # workers see who sent it

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.where == 'before_train_iter' and runner.iter + 1 == self.iteration:
            self._send()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.where == 'after_val_iter' and runner.iter == self.iteration and batch_idx == 0:
            self._send()


@HOOKS.register_module()
class KillInWrite(Hook):
    """Kill this process while a checkpoint with this name is being written."""

    def __init__(self, name):
        fsync = os.fsync

        def kill(descriptor):
            path = Path(os.readlink(f'/proc/self/fd/{descriptor}'))
            if path.name == f'{name}.part':
                os.truncate(path, path.stat().st_size // 2)
                signal.raise_signal(signal.SIGKILL)
            fsync(descriptor)

        os.fsync = kill


@HOOKS.register_module()
class Quota(Hook):
    """Limit the file size of this process while a checkpoint with this name is saved."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def before_save_checkpoint(self, runner, checkpoint):
        if f"epoch_{checkpoint['meta']['epoch']}.pth" == self.name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@HOOKS.register_module()
class Stuck(Hook):
    """An iteration that does not end."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            print('stuck', flush=True)
            while True:
                time.sleep(1)
