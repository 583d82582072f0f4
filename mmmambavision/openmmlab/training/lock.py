"""One training at a time in a work dir."""
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

HELD: dict[Path, Any] = {}  # files by path: the kernel releases a lock with the file or the process that holds it


def hold(work_dir: str | PathLike[str]) -> None:
    """Keep other trainings out of a work dir until this process ends, however it ends.

    A POSIX record lock belongs to one process and is not handed on by fork, as that of flock is: the workers of a
    killed training, which outlive it for seconds, hold nothing. A file system that has no locks has none here either.

    Raises:
        UserError: another training holds it; says which.
    """
    path = Path(work_dir, '.lock').absolute()
    if fcntl is None or path in HELD:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+')  # noqa: SIM115 (HELD keeps it open)
    except OSError:  # not a folder to write to, as whatever writes there first will say
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            print_log(f'{path} cannot be locked ({error.strerror}): see that no other training uses {work_dir}',
                      level=logging.WARNING)
            return
        holder = file.read().strip() or 'which starts at this moment'
        raise UserError(f'{work_dir} is in use by another training, {holder}: wait until it ends, or choose '
                        'another work_dir', 'work_dir') from None
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    HELD[path] = file
