"""The parts of `check_gpu.py`, and its report."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from mmmambavision.errors import UserError
from mmmambavision.ops import available_backends

ROOT = Path(__file__).resolve().parents[3]
TAIL = 40  # lines of a failed part in the report
PYTHON = [sys.executable, '-W', 'ignore', '-W', 'default:CUDA initialization']  # torch's warning about an old driver


class Part(NamedTuple):
    """A command of the check.

    Attributes:
        title: heading in the report.
        command: arguments of the command. It runs in the shared folder of all parts.
        limit: time limit in seconds.
        left_out: the reason why it cannot run here, or None.
    """
    title: str
    command: list
    limit: int
    left_out: str | None = None


def check_all(device, quick, out, only=None):
    """Run the parts and write the report.

    Args:
        device: 'cuda', or 'cpu' to try the check without a GPU.
        quick: whether to measure fewer shapes and rounds.
        out: new or empty folder (a Path) for report.md and report.json.
        only: names of the parts to run, or None for all.

    Raises:
        UserError: there is no GPU, a part is unknown, or the folder is not empty.
        SystemExit: with status 1 if a part failed or took too long.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch sees no NVIDIA GPU here. See the requirements in docs/gpu.md, or try the check without '
                        'a GPU: --device cpu')
    parts = all_parts(device, quick)
    if unknown := [name for name in only or () if name not in parts]:
        raise UserError(f"unknown part: {', '.join(unknown)}. Choose from {', '.join(parts)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{out} exists already. Name a new folder with --out')
    out.mkdir(parents=True, exist_ok=True)
    console, records = Console(stderr=True), []
    report = out / 'report.md'
    report.write_text(f"# mmmambavision on {'a GPU' if device == 'cuda' else 'a CPU, without GPU parts'}\n",
                      encoding='utf-8')
    with tempfile.TemporaryDirectory() as folder:
        for name in only or parts:
            console.print(f'{parts[name].title} ...', end=' ')
            record = dict(part=name, **run_part(parts[name], folder))
            console.print(f"{record['status']}, {record['seconds']:.0f} s")
            records.append(record)
            with report.open('a', encoding='utf-8') as file:
                file.write(section(parts[name], record))
            (out / 'report.json').write_text(json.dumps(records, indent=1), encoding='utf-8')
    console.print(f'report: {report}')
    if any(record['status'] in ('FAILED', 'OUT OF TIME') for record in records):
        sys.exit(1)


def all_parts(device, quick):
    """All parts by name, in the order of their runs."""
    gpu = device == 'cuda'
    count = torch.cuda.device_count() if gpu else 0
    only_gpu = None if gpu else 'only on a GPU'
    benchmarks, tests = ROOT / 'tools' / 'benchmarks', ROOT / 'tests'
    demo = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py'
    absent = available_backends()
    amp = ['--amp'] if gpu else []  # bfloat16 takes minutes on a CPU without instructions for it
    without_pytest = None if find_spec('pytest') else 'pytest is not installed'
    workers = ['--numprocesses', min(8, os.cpu_count())] if gpu and find_spec('xdist') else []
    # On a CPU, only collect the tests, because the test suite runs them.
    pytest = [*PYTHON, '-m', 'pytest', '-c', ROOT / 'pytest.ini', '--rootdir', ROOT, *workers,
              *([] if gpu else ['--collect-only'])]

    def own(name, *options):
        return [*PYTHON, benchmarks / 'check_gpu.py', '--part', name, '--device', device, *options]

    def tests_of_scan(backend):
        return Part(f'tests of the scan, {backend}', [*pytest, tests / 'ops', '-k', backend, '-m', 'not full'], 150,
                    without_pytest or (gpu and absent[backend]) or None)

    def training(processes, *options):
        launch = ['-m', 'torch.distributed.run', '--nproc-per-node', processes, '--master-port', 29511] \
            if processes else []
        return [*PYTHON, *launch, ROOT / 'tools' / 'train.py', demo, *amp, '--work-dir', f'demo{processes}',
                *(['--launcher', 'pytorch'] if processes else []), '--cfg-options', 'train_cfg.max_epochs=1',
                'train_dataloader.batch_size=4', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1',
                *options]

    size = (800, 1344) if gpu else (64, 96)
    models = ['mambavision-t', 'mambavision-t-padded', 'swin-t', 'convnext-t'] if gpu else ['mambavision-t']
    rounds = 1 if not gpu else 10 if quick else 30
    images = 40 if gpu else 8
    shapes = ['COCO padded, level 2', 'COCO padded, level 3', 'COCO whole map, level 2', 'COCO whole map, level 3',
              'ADE20K whole map, level 2', 'ImageNet, level 3'] if gpu else ['ImageNet, level 3']
    scan = [*PYTHON, benchmarks / 'scan.py', '--markdown', *([] if gpu and not quick else ['--shapes', *shapes]),
            '--batch', 1, *([2] if gpu else []), '--seconds', .2 if gpu else .01]
    return {
        'versions': Part('versions, driver and implementations', own('versions'), 60),
        'scan-triton': tests_of_scan('triton'),
        'scan-chunked': tests_of_scan('chunked'),
        'scan-mamba_ssm': tests_of_scan('mamba_ssm'),
        'depthwise-tests': Part('tests of the depthwise convolution',
                                [*pytest, tests / 'ops' / 'test_depthwise.py'], 120, without_pytest),
        'golden': Part('golden cases', [*pytest, tests / 'models' / 'test_golden.py'], 120, without_pytest),
        'operators': Part("mmcv's operators", [*pytest, tests / 'openmmlab' / 'test_mmcv_ops.py',
                                               *(['-k', 'cuda'] if gpu else [])], 120, without_pytest),
        'attention': Part("attention's kernels", own('attention'), 60),
        'data': Part(f'drawing {images + 4} images', [
            *PYTHON, ROOT / 'tools' / 'demo' / 'make_shapes_dataset.py', 'data/shapes', '--train', images, '--val', 4],
            60),
        'amp': Part(f'{images // 4} iterations of the demo in mixed precision', training(0), 120),
        'ddp-1': Part('the same with DDP, one process', training(1), 120),
        'ddp-2': Part('the same with DDP, two processes', training(2), 120,
                      None if count > 1 else 'needs two GPUs'),
        'graph': Part('CUDA graph of the backbone', own('graph'), 60, only_gpu),
        'second': Part('the backbone on cuda:1', own('second'), 60, None if count > 1 else 'needs two GPUs'),
        'scan': Part('time of the scan', scan, 120 if quick else 600),
        'depthwise': Part('time of the depthwise convolution', [
            *PYTHON, benchmarks / 'depthwise.py', '--markdown', '--shapes', *shapes, '--seconds', .2 if gpu else .01],
            120),
        'speed': Part('time of backbones', [
            *PYTHON, benchmarks / 'speed.py', *models, '--batch', 2, *amp, '--train', '--rounds', rounds,
            '--size', f'{size[0]}x{size[1]}', '--device', device, '--markdown'], 180),
        'memory': Part('memory of a training step and its estimate', own('memory', '--size', *size), 90),
        'profile': Part('profile of a training step', own('profile', '--size', *size), 90),
    }


def run_part(part, folder):
    """Run a part. Returns a dict of its status, seconds and output."""
    if part.left_out:
        return dict(status='left out', seconds=0., output=part.left_out)
    begin = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}  # too slow
    process = subprocess.Popen([*map(str, part.command)], cwd=folder, text=True, encoding='utf-8', errors='replace',
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                               env=environment)
    try:
        output, _ = process.communicate(timeout=part.limit)
        status = 'FAILED' if process.returncode else 'passed'
    except subprocess.TimeoutExpired:
        status, output = 'OUT OF TIME', stop(process)
    except KeyboardInterrupt:
        stop(process)
        raise
    return dict(status=status, seconds=time.monotonic() - begin, output=output)


def stop(process):
    """Kill a process and its children, and return their output."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def section(part, record):
    """The section of a part in the report, in Markdown."""
    lines = record['output'].strip().splitlines()
    if record['status'] in ('FAILED', 'OUT OF TIME'):
        lines = lines[-TAIL:]
    elif record['status'] == 'passed' and '--part' not in part.command:
        lines = [line for line in lines if line.startswith('|') or ' loss: ' in line or ' passed' in line
                 or ' collected' in line or ' threads;' in line or 'torch ' in line]
    plain = record['status'] == 'left out' or all(line.startswith(('|', '- ')) for line in lines)
    body = '\n'.join(lines) if plain else '```\n' + '\n'.join(lines) + '\n```'
    return f"\n## {part.title}: {record['status']}, {record['seconds']:.0f} s\n\n{body}\n"
