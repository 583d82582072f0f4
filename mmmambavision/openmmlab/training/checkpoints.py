"""Checkpoints that are written whole or not at all, and those that a run has left."""
import os
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ...checkpoints.files import read_checkpoint
from ...errors import UserError

BACKEND = dict(backend='atomic')
INTERRUPTED = 'interrupted.pth'  # one name for all, so that a training of many short jobs leaves one file


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """mmengine's files on disk, for checkpoints: a file appears under its name when it is whole, and those that are
    removed to make room for it go after that.

    mmengine's CheckpointHook removes first and writes in place, through two instances of a backend.
    """

    _outdated: ClassVar[set] = set()

    def put(self, obj, filepath):
        """Write bytes to a file by way of FILE.part.

        Raises:
            UserError: the file cannot be written; names the last whole checkpoint.
        """
        part = f'{filepath}.part'
        folder = Path(filepath).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, filepath)
        except OSError as error:
            Path(part).unlink(missing_ok=True)
            last, hint = way_on(folder)
            raise UserError(f'{filepath} could not be written: {error.strerror}. Make space. {last}', hint) from None
        _sync_folder(folder)
        for path in self._outdated - {str(filepath)}:
            Path(path).unlink(missing_ok=True)
        self._outdated.clear()

    def remove(self, filepath):
        """Remove a file after the next one was written."""
        self._outdated.add(str(filepath))


def _sync_folder(folder):
    """Have a rename on disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # and some network file systems sync none
        pass
    finally:
        os.close(descriptor)


def put_into(cfg):
    """Have a config's CheckpointHook write through `AtomicBackend`, unless it names a backend or another place."""
    # A Config stores a copy of the dict that it is given, and its setdefault returns the dict.
    cfg.setdefault('default_hooks', {})
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    hook = cfg.default_hooks.checkpoint
    if hook and 'file_client_args' not in hook and '://' not in str(hook.get('out_dir') or cfg.work_dir):
        hook.setdefault('backend_args', BACKEND.copy())


def checkpoints(work_dir):
    """Paths of the checkpoints in a work dir, the last one first."""
    files = [f for pattern in ('epoch_*.pth', 'iter_*.pth', INTERRUPTED) for f in Path(work_dir).glob(pattern)]
    return sorted(files, key=lambda f: f.stat().st_mtime_ns, reverse=True)


def latest_checkpoint(work_dir):
    """The last checkpoint in a work dir that can be read; a damaged one is passed over."""
    for path in checkpoints(work_dir):
        try:
            read_checkpoint(path)
            return str(path)
        except UserError as error:
            print_log(f'passed over: {error}')
    print_log(f'nothing to resume from in {work_dir}: training starts at the beginning')
    return None


def way_on(work_dir):
    """A sentence that names the last whole checkpoint of a work dir, and the hint for commands, see `UserError`."""
    last = latest_checkpoint(work_dir) if checkpoints(work_dir) else None
    return (f'The last whole checkpoint is {last}', 'resume') if last else ('There is no checkpoint yet', None)
