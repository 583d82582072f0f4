"""Lock a work dir, so that only one training uses it."""
import errno
import logging
import os
import socket
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ...errors import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

HELD: dict[Path, Any] = {}  # open files by path: closing a file releases its lock


def hold(work_dir: str | PathLike[str]) -> None:
    """Lock a work dir until this process ends, for any reason.

    A POSIX record lock belongs to one process. With flock, a forked data loader worker would keep the lock for some
    seconds after the training is killed. On a file system without locks, this function only warns.

    Raises:
        UserError: another training uses the work dir. The message names its process.
    """
    path = Path(work_dir, '.lock').absolute()
    if fcntl is None or path in HELD:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+')  # noqa: SIM115 (HELD keeps it open)
    except OSError:  # the folder is not writable: the first real write reports it
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            print_log(f'{path} cannot be locked ({error.strerror}). Make sure that no other training uses {work_dir}',
                      level=logging.WARNING)
            return
        holder = file.read().strip() or 'which is just starting'
        raise UserError(f'{work_dir} is in use by another training, {holder}. Wait until it ends, or choose '
                        'another work_dir', 'work_dir') from None
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    HELD[path] = file
