"""What ends a training, as one sentence that says what to do, where it is nothing wrong with the program."""
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
    """Run a training; what the machine, the data or another process did to it is raised as a UserError.

    Args:
        work_dir: where its checkpoints are.

    Raises:
        UserError: with a sentence of its own, for what `sentence_of` knows; other errors as they are.
    """
    try:
        yield
    except Exception as error:
        sentence = sentence_of(error)
        if not sentence:
            raise
        if isinstance(error, UserError):
            raise UserError(sentence, *getattr(error, 'hints', ())) from None
        last, hint = way_on(work_dir)
        mended_by = ('less_memory' if isinstance(error, torch.OutOfMemoryError) else
                     'work_dir' if isinstance(error, OSError) and error.errno in NOT_WRITTEN else None)
        raise UserError(f'{sentence}. {last}', mended_by, hint) from None


def sentence_of(error: BaseException) -> str | None:
    """What an error of a training means, or None for one that is not known."""
    text = str(error)
    if isinstance(error, UserError):  # torch puts a worker's traceback before its message
        return text.rpartition(f'{type(error).__name__}: ')[2].strip() if 'in DataLoader worker' in text else text
    if isinstance(error, torch.OutOfMemoryError):
        return (f'the GPU has too little memory ({text.split(". ")[0]}): set train_dataloader.batch_size lower and '
                'scale the learning rate with it, train in mixed precision, or set model.backbone.with_cp=True, which '
                'computes activations twice')
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        return (f'{error.filename or "a file"} could not be written: {error.strerror}; make space, or choose another '
                'work_dir')
    if worker := WORKER.search(' '.join(map(str, chain(error)))):
        ended = worker[2].strip().replace('is killed by signal: ', 'was ended by a signal: ')
        if 'Bus error' in ended:
            return (f"a data loader's worker, process {worker[1]}, {ended}: /dev/shm is full; give the container more "
                    '(docker run --shm-size=8g), or set train_dataloader.num_workers lower')
        return (f"a data loader's worker, process {worker[1]}, {ended}: as a rule the memory ran out and the system "
                'killed it; set train_dataloader.num_workers and val_dataloader.num_workers lower')
    if 'Cannot find valid image after' in text:
        return ('of very many images in a row not one could be read, as warnings above say: see that data_root and '
                'data_prefix of train_dataloader.dataset name the folder of the images')
    if dist.is_initialized() and (isinstance(error, dist.DistError) or
                                  (isinstance(error, RuntimeError) and CONNECTION.search(text))):
        return (f'process {dist.get_rank()} of {dist.get_world_size()} has lost another one, which ended or was '
                f'killed; what that one says last tells why ({text.strip().splitlines()[0][:200]})')
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those in whose handling it was raised: torch raises that of a killed worker wherever the program
    is, also where others catch it and stumble."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
