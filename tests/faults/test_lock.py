"""Two trainings in one work dir, and a lock whose holder was killed."""
import errno
import os
import re
import signal
import socket
import time

import pytest

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.training import lock

from ..helpers.data import tiny_segmentor
from ..helpers.process import Process, command, train


def hold_in_a_process(work_dir):
    """Process ids of a process that holds the lock and of a child that it forked then; both wait to be killed."""
    read, write = os.pipe()
    if holder := os.fork():
        return holder, int(os.read(read, 20))
    lock.hold(work_dir)
    child = os.fork()
    if child:
        os.write(write, str(child).encode())
    time.sleep(60)
    os._exit(0)


def test_the_second_names_the_first_and_its_children_hold_nothing(tmp_path):
    holder, child = hold_in_a_process(tmp_path)
    try:
        with pytest.raises(UserError) as refused:
            lock.hold(tmp_path)
        for fact in (str(tmp_path), f'process {holder} on {socket.gethostname()}', 'work_dir'):
            assert fact in str(refused.value)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.kill(child, 0)  # it lives
        lock.hold(tmp_path)
        lock.hold(tmp_path)  # the holder itself may ask again
        assert (tmp_path / '.lock').read_text() == f'process {os.getpid()} on {socket.gethostname()}\n'
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_there_are_no_locks(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(lock.fcntl, 'lockf', refuse)
    lock.hold(tmp_path)
    assert 'No locks available' in capsys.readouterr().out


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / 'file').write_text('mine')
    lock.hold(tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.slow
def test_two_trainings_in_one_work_dir(tmp_path):
    """The second is refused, whatever the first has written; after SIGKILL one starts while its workers live."""
    config, work_dir = tiny_segmentor(tmp_path, iterations=100000, every=2), tmp_path / 'work'
    first = Process(command(config, work_dir), tmp_path / 'first.log')
    first.wait_for(r'\[ *3/')
    workers = first.children()
    assert workers
    files = sorted(path.name for path in work_dir.iterdir())
    refused = train(config, work_dir, status=1)
    assert re.search(rf'error: .*/work .*process {first.pid} .*--work-dir', refused)
    assert {name for name in files if not name.startswith('iter_')} == {
        path.name for path in work_dir.iterdir() if not path.name.startswith('iter_')}
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # so that they outlive it for sure
    first.process.kill()
    first.process.wait()
    try:
        *_, error = train(config, work_dir, status=1).splitlines()
        assert '--resume' in error and str(work_dir) in error
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
