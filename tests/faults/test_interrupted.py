"""Processes of tools/train.py that are killed, asked to end by signals, or get no more space on their disk."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from mmmambavision.checkpoints.files import read_checkpoint

from ..helpers.compare import assert_same_training, losses
from ..helpers.data import small_detector
from ..helpers.process import ROOT, Process, command, free_port, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp('detector'))


@pytest.fixture(scope='module')
def uninterrupted(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('uninterrupted') / 'work_dir'
    train(config, work_dir)
    return work_dir


def files(work_dir):
    return {path.name for path in work_dir.glob('*.pth*')}


def said_of(name, output):
    """The line that says that a signal has ended the training; configs name signals otherwise, and torchrun's lines
    begin with a letter and the date."""
    line, = [line for line in output.splitlines()
             if not re.match(r'[IWE]\d{4} ', line) and re.search(rf"(?<![.'\w]){name}(?![':\w])", line)]
    return line


def faulty(config, *hooks, work_dir=None):
    """The config with hooks of tests/faults/hooks.py, or others."""
    number = len(list(config.parent.glob('*.py')))
    path = config.with_name(f'faulty_{number}.py')
    path.write_text(f"_base_ = '{config.name}'\ncustom_hooks = {[*hooks]}\nwork_dir = {str(work_dir or '')!r} or None")
    return path


def test_killed_in_training_and_in_a_checkpoints_write(config, uninterrupted, tmp_path):
    """The checkpoint before is there still, though one alone is kept, and the half written one is passed over."""
    work_dir = tmp_path / 'work_dir'
    train(faulty(config, dict(type='KillInWrite', name='epoch_2.pth')), work_dir, status=-signal.SIGKILL)
    assert files(work_dir) == {'epoch_1.pth', 'epoch_2.pth.part'} and len(losses(work_dir)) == 8
    killed = faulty(config, dict(type='SignalAt', iteration=7, name='SIGKILL'))
    output = train(killed, work_dir, '--resume', status=-signal.SIGKILL)
    assert 'resumed epoch: 1, iter: 4' in output and files(work_dir) == {'epoch_1.pth', 'epoch_2.pth.part'}
    train(config, work_dir, '--resume')
    assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')
    assert files(work_dir) == {'epoch_3.pth'}


def test_signals_as_slurm_sends_them(config, uninterrupted, tmp_path):
    """SIGTERM, and in the next job SIGUSR1, to all processes of a job, data loaders' workers among them."""
    work_dir, with_workers = tmp_path / 'work_dir', ['--cfg-options', 'train_dataloader.num_workers=2']
    fault = dict(type='SignalAt', iteration=6, to='group')
    output = train(faulty(config, fault), work_dir, *with_workers, status=75)
    path = work_dir / 'interrupted.pth'
    ended = said_of('SIGTERM', output)
    assert ' 6' in ended and 'resume' in ended and str(path) in ended
    assert 'Traceback' not in output and files(work_dir) == {'epoch_1.pth', path.name}
    meta = read_checkpoint(path)['meta']
    assert (meta['epoch'], meta['iter'], meta['batches_of_epoch']) == (1, 6, [2, 4])
    fault.update(iteration=8, name='SIGUSR1')
    output = train(faulty(config, fault), work_dir, '--resume', *with_workers, status=75)
    assert 'resumed epoch: 1, iter: 6' in output and ' 8' in said_of('SIGUSR1', output)
    train(config, work_dir, '--resume')
    assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')


SRUN = """#!/bin/bash
for word in "$@"; do
    case "$word" in --launcher | slurm) ;; python) command+=("$PYTHON") ;; *) command+=("$word") ;; esac
done
exec "${command[@]}"
"""


@pytest.mark.full
def test_the_script_for_slurm(config, uninterrupted, tmp_path):
    """As docs/reliability.md has it, with an srun that starts one process of no launcher: two jobs."""
    work_dir = tmp_path / 'work_dir'
    script = re.search(r'```shell\n(#!/bin/bash.*?)```', (ROOT / 'docs/reliability.md').read_text(), re.DOTALL)[1]
    for name, text in dict(srun=SRUN, scontrol=f'#!/bin/bash\necho "$@" >> {tmp_path}/requeued', job=script).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    fault = faulty(config, dict(type='SignalAt', iteration=6, name='SIGUSR1', to='parent'), work_dir=work_dir)
    environment = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON=sys.executable, CONFIG=str(fault),
                       SLURM_JOB_ID='123')
    output = Process(['bash', str(tmp_path / 'job')], tmp_path / 'first.log', **environment).ends(75, 120)
    assert 'resumed epoch' not in output and str(work_dir) in said_of('SIGUSR1', output)
    assert (tmp_path / 'requeued').read_text() == 'requeue 123\n'
    assert 'resumed epoch: 1' in Process(
        ['bash', str(tmp_path / 'job')], tmp_path / 'second.log', **environment).ends(0, 120)
    assert (tmp_path / 'requeued').read_text() == 'requeue 123\n'
    assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')


def test_a_signal_in_a_validation(config, uninterrupted, tmp_path):
    """Nothing that validation does to the model, such as an average of weights in its place, is in the checkpoint."""
    work_dir = tmp_path / 'work_dir'
    often = ['train_cfg.val_interval=1', 'train_cfg.val_begin=1']
    average, fault = dict(type='EMAHook', momentum=.1), dict(type='SignalAt', iteration=4, validation=True)
    output = train(faulty(config, average, fault), work_dir, '--cfg-options', *often, status=75)
    assert ' 4' in said_of('SIGTERM', output) and 'bbox_mAP: ' not in output
    regular, interrupted = (read_checkpoint(work_dir / name) for name in ('epoch_1.pth', 'interrupted.pth'))
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in regular[part].items():
            assert torch.equal(value, interrupted[part][key]), key
    assert interrupted['meta']['batches_of_epoch'] == [0, 4] and regular['meta']['epoch'] == 1
    assert interrupted['meta']['epoch'] == 1


def test_the_keyboard(config, uninterrupted, tmp_path):
    """Ctrl-C, which a terminal sends to all processes: ends like the others, with a status that stops scripts."""
    work_dir = tmp_path / 'work_dir'
    fault = faulty(config, dict(type='SignalAt', iteration=6, name='SIGINT', to='group'))
    output = train(fault, work_dir, '--cfg-options', 'train_dataloader.num_workers=2', status=130)
    assert 'Ctrl-C after 5 seconds' in output and 'Traceback' not in output
    assert ' 6' in said_of('SIGINT', output)
    train(config, work_dir, '--resume')
    assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')
    early = Process(command(config, tmp_path / 'early'), tmp_path / 'early.log')
    early.wait_for('Hooks will be executed')
    os.kill(early.pid, signal.SIGINT)
    assert said_of('SIGINT', early.ends(130))


@pytest.mark.full
def test_the_keyboard_of_who_has_it_ignored(config, uninterrupted, tmp_path):
    """Shells have what a script runs in the background ignore Ctrl-C."""
    work_dir = tmp_path / 'work_dir'
    fault = faulty(config, dict(type='SignalAt', iteration=6, name='SIGINT'))
    Process(['bash', '-c', 'trap "" INT; exec "$@"', 'bash', *command(fault, work_dir)], tmp_path / 'log').ends(0, 120)
    assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')


def test_before_the_first_iteration_and_a_second_signal(config, tmp_path):
    """The first ends with nothing written; a second ends at once, without waiting for the iteration's end."""
    slow = config.with_name('slow.py')  # as one that waits for a download
    slow.write_text(config.read_text() + "\nimport time\nprint('config', flush=True)\ntime.sleep(5)\ndel time\n")
    for path, moment in ((slow, 'config'), (config, 'Hooks will be executed')):
        early = Process(command(path, tmp_path / 'early'), tmp_path / 'early.log')
        early.wait_for(moment)
        os.kill(early.pid, signal.SIGUSR1)
        assert said_of('SIGUSR1', early.ends(75))
        assert not files(tmp_path / 'early')
    fault = faulty(config, dict(type='Stuck', iteration=2))
    stuck = Process(command(fault, tmp_path / 'stuck'), tmp_path / 'stuck.log')
    stuck.wait_for('(?m)^stuck$')  # the log has the word in paths before
    os.kill(stuck.pid, signal.SIGTERM)
    time.sleep(6)
    os.kill(stuck.pid, signal.SIGTERM)
    stuck.ends(-signal.SIGTERM, 20)
    assert not files(tmp_path / 'stuck')


def disk_full(work_dir, output, reason):
    *_, error = output.splitlines()
    assert error.startswith('error: ') and 'Traceback' not in output
    for fact in (f'{work_dir}/epoch_2.pth', reason, f'{work_dir}/epoch_1.pth', '--resume'):
        assert fact in error
    assert files(work_dir) == {'epoch_1.pth'}


def test_a_quota(config, tmp_path):
    work_dir = tmp_path / 'work_dir'
    output = train(faulty(config, dict(type='Quota', name='epoch_2.pth', size=100_000)), work_dir, status=1)
    disk_full(work_dir, output, 'File too large')


@pytest.mark.full
def test_a_full_disk(config, uninterrupted, tmp_path):
    """A disk with room for a checkpoint and a half."""
    work_dir = tmp_path / 'work_dir'
    work_dir.mkdir()
    size = (uninterrupted / 'epoch_3.pth').stat().st_size * 3 // 2
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', work_dir]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('no file system can be mounted here')
    try:
        output = train(config, work_dir, status=1)
        disk_full(work_dir, output, 'No space left on device')
        subprocess.run(['mount', '-o', f'remount,size={2 * size}', work_dir], check=True)
        train(config, work_dir, '--resume')
        assert_same_training(work_dir, uninterrupted, 'epoch_3.pth')
    finally:
        subprocess.run(['umount', '--lazy', work_dir], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason='the launcher takes GPUs where there are some')
def test_two_processes(config, tmp_path):
    """A signal to torchrun alone: both processes end after the same iteration, and go on with the same losses."""
    def start(name, config, *options):
        return Process([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port',
                        str(free_port()), *command(config, tmp_path / name, '--launcher', 'pytorch', *options)[1:]],
                       tmp_path / f'{name}.log')

    start('whole', config).ends(0, 120)
    started = start('parts', faulty(config, dict(type='SignalAt', iteration=3, to='parent')))
    assert ' 3' in said_of('SIGTERM', started.ends(1, 120))
    start('parts', config, '--resume').ends(0, 120)
    assert len(losses(tmp_path / 'whole')) == 6 and losses(tmp_path / 'parts') == losses(tmp_path / 'whole')
