"""Turn known training failures (memory, disk, data, network) into short messages that say what to do."""
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import torch
import torch.distributed as dist

from ...errors import UserError
from .checkpoints import way_on

WORKER = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [\w ]+|exited unexpectedly)')
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
CONNECTION = re.compile(r'connection (closed|reset|refused)|broken pipe|socket|timed out|timeout|remote process', re.I)


@contextmanager
def explained(work_dir: str | PathLike[str]) -> Iterator[None]:
    """Run a training and turn known failures of the machine, the data or another process into a UserError.

    Args:
        work_dir: folder of the checkpoints.

    Raises:
        UserError: `message_of` knows the error. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        message = message_of(error)
        if not message:
            raise
        if isinstance(error, UserError):
            raise UserError(message, *getattr(error, 'hints', ())) from None
        last, hint = way_on(work_dir)
        mended_by = ('less_memory' if isinstance(error, torch.OutOfMemoryError) else
                     'work_dir' if isinstance(error, OSError) and error.errno in NOT_WRITTEN else None)
        raise UserError(f'{message}. {last}', mended_by, hint) from None


def message_of(error: BaseException) -> str | None:
    """A message for a known training error, or None."""
    text = str(error)
    if isinstance(error, UserError):  # torch puts a worker's traceback before its message
        return text.rpartition(f'{type(error).__name__}: ')[2].strip() if 'in DataLoader worker' in text else text
    if isinstance(error, torch.OutOfMemoryError):
        return (f'the GPU has too little memory ({text.split(". ")[0]}): reduce train_dataloader.batch_size and the '
                'learning rate, train in mixed precision, or set model.backbone.with_cp=True (activation '
                'checkpointing)')
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        return (f'{error.filename or "a file"} could not be written: {error.strerror}. Free some disk space, or choose '
                'another work_dir')
    if worker := WORKER.search(' '.join(map(str, chain(error)))):
        ended = worker[2].strip().replace('is killed by signal: ', 'was ended by a signal: ')
        if 'Bus error' in ended:
            return (f'the data loader worker with process id {worker[1]} {ended}, because /dev/shm is full. Increase '
                    'it (docker run --shm-size=8g), or reduce train_dataloader.num_workers')
        return (f'the data loader worker with process id {worker[1]} {ended}, usually because the memory ran out. '
                'Reduce train_dataloader.num_workers and val_dataloader.num_workers')
    if 'Cannot find valid image after' in text:
        return ('too many images in a row could not be read (see the warnings above). Check that data_root and '
                'data_prefix of train_dataloader.dataset name the image folder')
    if dist.is_initialized() and (isinstance(error, dist.DistError) or
                                  (isinstance(error, RuntimeError) and CONNECTION.search(text))):
        return (f'process {dist.get_rank()} of {dist.get_world_size()} lost the connection to another process '
                f'({text.strip().splitlines()[0][:200]}). The last output of the other process shows the reason')
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all its causes and contexts.

    torch raises the error of a killed worker at any point of the program. Another library can catch it and raise its
    own error.
    """
    while error:
        yield error
        error = error.__cause__ or error.__context__
