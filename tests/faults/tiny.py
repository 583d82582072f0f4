"""A training of seconds: a small segmentor on four drawn images, and processes that run it."""
import os
import re
import signal
import subprocess
import sys
import time

from ..conftest import ROOT, free_port
from ..openmmlab import drawn

CONFIG = """
_base_ = '{root}/configs/_base_/segmentation_runtime.py'
custom_imports = dict(imports=['mmmambavision'], allow_failed_imports=False)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32, pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='MambaVision', arch=dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)),
        drop_path_rate=0.),
    decode_head=dict(
        type='FCNHead', in_channels=128, in_index=3, channels=8, num_convs=1, num_classes=150,
        norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
train_dataloader = dict(
    batch_size=2, num_workers=1, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset', data_root='{data}',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomCrop', crop_size=(64, 64)), dict(type='PackSegInputs')]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters={iterations}, val_interval=10**6)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), sampler_seed=dict(type='DistSamplerSeedHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval={every}))
randomness = dict(seed=0)
"""


def prepare(folder, iterations=4, every=100):
    """Draw the data in `folder`; returns the path of a config that trains on it."""
    drawn.ade20k(folder / 'data')
    config = folder / 'tiny.py'
    config.write_text(CONFIG.format(root=ROOT, data=folder / 'data', iterations=iterations, every=every))
    return config


def command(config, work_dir, *options):
    return [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir), *map(str, options)]


def _obey_the_keyboard():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored where the tests run in a script's background


class Process:
    """A command in a process, with what it printed in a file."""

    def __init__(self, arguments, log, **environment):
        self.log = log
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))  # configs name tests.faults
        with open(log, 'w') as file:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, stdout=file, stderr=file, start_new_session=True, preexec_fn=_obey_the_keyboard,
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path, **environment})
        self.pid = self.process.pid

    def output(self):
        return self.log.read_text()

    def wait_for(self, pattern, seconds=90):
        """Wait until it has printed what a regular expression finds, which must be before it ends."""
        deadline = time.time() + seconds
        while not (found := re.search(pattern, self.output())):
            assert self.process.poll() is None and time.time() < deadline, self.output()
            time.sleep(.05)
        return found

    def ends(self, status=1, seconds=60):
        """What it printed, with an exit status and in a time."""
        assert self.process.wait(seconds) == status, self.output()
        return self.output()

    def children(self):
        path = f'/proc/{self.pid}/task/{self.pid}/children'
        with open(path) as file:
            return [int(pid) for pid in file.read().split()]


def train(config, work_dir, *options, status=0):
    """Run a training to its end; returns what it printed."""
    log = work_dir.parent / f'{work_dir.name}.log'
    return Process(command(config, work_dir, *options), log).ends(status, 120)


def ranks(config, work_dir, *options):
    """Two processes of one training, started without an agent."""
    port = str(free_port())
    return [Process(command(config, work_dir, *options, '--launcher', 'pytorch'), work_dir.parent / f'rank{rank}.log',
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            for rank in range(2)]
