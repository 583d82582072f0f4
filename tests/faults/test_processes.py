"""Processes of a training that die: the others end, with a sentence."""
import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from mmmambavision.cli.hints import with_hint
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.training import explained
from mmmambavision.openmmlab.training.checkpoints import latest_checkpoint

from ..helpers.compare import losses
from ..helpers.data import tiny_segmentor
from ..helpers.process import ROOT, Process, command, free_port, ranks, train

HOUR = 10 ** 6


def explanation(error, work_dir):
    with pytest.raises(UserError) as stop, explained(work_dir):
        raise error
    return with_hint(stop.value)


def test_memory(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'iter_8.pth')
    (tmp_path / 'iter_9.pth').write_bytes(b'half')
    message = explanation(torch.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB'), tmp_path)
    for fact in (
            'CUDA out of memory', f'{tmp_path}/iter_8.pth', '--resume',
            'train_dataloader.batch_size', '--auto-scale-lr', '--amp', 'model.backbone.with_cp=True'):
        assert fact in message


def test_a_disk_that_takes_nothing(tmp_path):
    """Such as a log on a disk that is full, or a work dir on one that is read-only."""
    for number, reason in ((errno.ENOSPC, 'No space left on device'), (errno.EROFS, 'Read-only file system')):
        message = explanation(OSError(number, reason, 'a.log'), tmp_path)
        assert 'a.log' in message and reason in message and '--resume' not in message
    with pytest.raises(FileNotFoundError):
        explanation(FileNotFoundError(errno.ENOENT, 'No such file or directory', 'a.txt'), tmp_path)


@pytest.mark.parametrize('text, facts', [
    ('DataLoader worker (pid 12) is killed by signal: Killed. ', ['12', 'Killed', 'memory']),
    ('DataLoader worker (pid(s) 12, 13) exited unexpectedly', ['12, 13', 'memory']),
    ('DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that', ['12', '/dev/shm'])])
def test_workers(text, facts, tmp_path):
    message = explanation(RuntimeError(text), tmp_path)
    assert not [fact for fact in [*facts, 'train_dataloader.num_workers'] if fact not in message]
    assert '--resume' not in message


def test_a_worker_that_ends_while_others_catch_errors(tmp_path):
    """As mmengine does around yapf, which formats the config for a checkpoint."""
    try:
        try:
            raise RuntimeError('DataLoader worker (pid 12) is killed by signal: Killed. ')
        except RuntimeError as error:
            error.args[1]
    except IndexError as error:
        message = explanation(error, tmp_path)
        assert '12' in message and 'Killed' in message


def test_a_worker_s_sentence_is_all_that_is_said(tmp_path):
    text = ('Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
            '  File "x"\nmmmambavision.errors.UserError: a.jpg cannot be read: it is empty\n')
    assert explanation(UserError(text), tmp_path) == 'a.jpg cannot be read: it is empty'
    assert explanation(UserError('as it is: so'), tmp_path) == 'as it is: so'


@pytest.mark.parametrize('error', [RuntimeError('Connection closed by peer'), KeyError('x'), AssertionError()])
def test_other_errors_stay(error, tmp_path):
    """A connection, too, where there are no other processes."""
    with pytest.raises(type(error)) as stop, explained(tmp_path):
        raise error
    assert stop.value is error


@pytest.mark.slow
def test_a_killed_worker(tmp_path):
    config = tiny_segmentor(tmp_path, iterations=HOUR, every=2)
    training = Process(command(config, tmp_path / 'work'), tmp_path / 'log')
    training.wait_for(r'\[ *5/')
    os.kill(training.children()[0], signal.SIGKILL)
    output = training.ends(seconds=30)
    assert 'Traceback' not in output
    last = latest_checkpoint(tmp_path / 'work')
    *_, error = output.splitlines()
    assert 'train_dataloader.num_workers' in error and str(last) in error
    iterations = int(re.search(r'iter_(\d+)', last)[1]) + 3
    end = ['--cfg-options', f'train_cfg.max_iters={iterations}']
    assert f'resumed epoch: 0, iter: {iterations - 3}' in train(config, tmp_path / 'work', '--resume', *end)
    train(config, tmp_path / 'uninterrupted', *end)
    assert losses(tmp_path / 'work') == losses(tmp_path / 'uninterrupted')
    assert len(losses(tmp_path / 'work')) == iterations


@pytest.mark.slow
def test_a_killed_process_under_torchrun(tmp_path):
    config = tiny_segmentor(tmp_path, iterations=HOUR)
    agent = Process([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port',
                     str(free_port()), *command(config, tmp_path / 'work', '--launcher', 'pytorch')[1:]],
                    tmp_path / 'log')
    agent.wait_for(r'\[ *3/')
    rank = next(pid for pid in reversed(agent.children()) if str(ROOT) in Path(f'/proc/{pid}/cmdline').read_text())
    os.kill(rank, signal.SIGKILL)
    output = agent.ends(seconds=60)
    assert 'exitcode' in output and f'pid: {rank}' in output


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_a_killed_process_without_an_agent(killed, tmp_path):
    both = ranks(tiny_segmentor(tmp_path, iterations=HOUR), tmp_path / 'work')
    both[0].wait_for(r'\[ *3/')
    both[killed].process.kill()
    output = both[1 - killed].ends(seconds=60)
    assert 'Traceback' not in output
    error, = [line for line in output.splitlines() if line.startswith('error: ')]
    assert f'process {1 - killed} of 2' in error and '--resume' not in error
