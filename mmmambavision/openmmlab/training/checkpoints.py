"""Write checkpoints atomically, and find the checkpoints of a run."""
import os
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ...checkpoints.files import read_checkpoint
from ...errors import UserError

BACKEND = dict(backend='atomic')
INTERRUPTED = 'interrupted.pth'  # a fixed name, so that a chain of many short jobs leaves one file


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """Local file backend with atomic writes. Old checkpoints are deleted only after the new one is complete.

    mmengine's CheckpointHook deletes the old file first and writes in place. It uses two instances of the backend, so
    the list of outdated files belongs to the class.
    """

    _outdated: ClassVar[set] = set()

    def put(self, obj, filepath):
        """Write bytes to FILE.part, then rename it to FILE.

        Raises:
            UserError: the file cannot be written. The message names the last complete checkpoint.
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
            raise UserError(f'{filepath} could not be written: {error.strerror}. Free some disk space. {last}',
                            hint) from None
        _sync_folder(folder)
        for path in self._outdated - {str(filepath)}:
            Path(path).unlink(missing_ok=True)
        self._outdated.clear()

    def remove(self, filepath):
        """Delete a file after the next file is written."""
        self._outdated.add(str(filepath))


def _sync_folder(folder):
    """Flush a rename to disk, if the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot sync folders
        pass
    finally:
        os.close(descriptor)


def put_into(cfg):
    """Make a config's CheckpointHook use `AtomicBackend`, unless it sets a backend or a remote folder."""
    # Config stores a copy of the dict, but setdefault returns the original dict.
    cfg.setdefault('default_hooks', {})
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    hook = cfg.default_hooks.checkpoint
    if hook and 'file_client_args' not in hook and '://' not in str(hook.get('out_dir') or cfg.work_dir):
        hook.setdefault('backend_args', BACKEND.copy())


def checkpoints(work_dir):
    """Paths of the checkpoints in a work dir, newest first."""
    files = [f for pattern in ('epoch_*.pth', 'iter_*.pth', INTERRUPTED) for f in Path(work_dir).glob(pattern)]
    return sorted(files, key=lambda f: f.stat().st_mtime_ns, reverse=True)


def latest_checkpoint(work_dir):
    """The newest readable checkpoint in a work dir. Damaged checkpoints are skipped."""
    for path in checkpoints(work_dir):
        try:
            read_checkpoint(path)
            return str(path)
        except UserError as error:
            print_log(f'skipped: {error}')
    print_log(f'no checkpoint to resume from in {work_dir}: training starts from the beginning')
    return None


def way_on(work_dir):
    """A sentence that names the last complete checkpoint of a work dir, and the hint for commands (see `UserError`)."""
    last = latest_checkpoint(work_dir) if checkpoints(work_dir) else None
    return (f'The last complete checkpoint is {last}', 'resume') if last else ('There is no checkpoint yet', None)
