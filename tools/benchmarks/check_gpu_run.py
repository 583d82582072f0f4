"""The steps of `check_gpu.py`, and its report."""
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console

from mmmambavision.errors import UserError
from mmmambavision.ops import available_backends

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('torch', 'torchvision', 'triton', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation',
            'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'mmmambavision')
TAIL = 40  # lines of a failed step in the report


def check_all():
    """Run all steps and print the report.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError('torch sees no NVIDIA GPU here, so there is nothing to check; docs/gpu.md says what one needs')
    console = Console(stderr=True)
    report = ['# mmmambavision on a GPU\n', *machine()]
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        for title, command in steps().items():
            fine, part = check(title, command, folder, console)
            report.append(part)
            passed &= fine
    print('\n'.join(report))
    if not passed:
        sys.exit(1)


def steps():
    """Title and command of everything that is run, in a folder of its own."""
    python = [sys.executable, '-W', 'ignore', '-W', 'default:CUDA initialization']  # torch's of an old driver
    tools = ROOT / 'tools'
    demo = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py'
    pytest = [*python, '-m', 'pytest', '-c', ROOT / 'pytest.ini', '--rootdir', ROOT]
    return {
        'tests of the scan': [*pytest, ROOT / 'tests' / 'ops'],
        'golden cases': [*pytest, ROOT / 'tests' / 'models' / 'test_golden.py'],
        'drawing 40 images': [
            *python, tools / 'demo' / 'make_shapes_dataset.py', 'data/shapes', '--train', 40, '--val', 4],
        'ten iterations of the demo, mixed precision': [
            *python, tools / 'train.py', demo, '--amp', '--work-dir', 'demo', '--cfg-options', 'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1', 'default_hooks.logger.interval=1'],
        'benchmark of backbones': [
            *python, tools / 'benchmarks' / 'speed.py', 'mambavision-t-padded', 'mambavision-t', 'swin-t', 'convnext-t',
            'resnet50', '--batch', 2, '--amp', '--train', '--rounds', 20, '--markdown'],
        'benchmark of the scan': [*python, tools / 'benchmarks' / 'scan.py', '--markdown'],
        'benchmark of the depthwise convolution': [*python, tools / 'benchmarks' / 'depthwise.py', '--markdown'],
    }


def machine():
    """The lines that say what this ran on."""
    yield (f'- {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {platform.platform()}, '
           f'Python {platform.python_version()}')
    found = []
    for package in PACKAGES:
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            pass
    yield f"- {', '.join(found)}"
    for name, reason in available_backends().items():
        yield f"- scan `{name}`: {reason or 'present'}"


def check(title, command, folder, console):
    """Run a step; whether it passed, and its part of the report."""
    console.print(f'{title} ...', end=' ')
    begin = time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=folder, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    result = f"{'passed' if done.returncode == 0 else 'FAILED'}, {time.monotonic() - begin:.0f} s"
    console.print(result)
    lines = done.stdout.strip().splitlines()
    shown = [line for line in lines if line.startswith('|') or ' loss: ' in line or ' passed' in line]
    if done.returncode:
        shown = lines[-TAIL:]
    tables = all(line.startswith('|') for line in shown)
    body = '\n'.join(shown) if tables else '```\n' + '\n'.join(shown) + '\n```'
    return done.returncode == 0, f'\n## {title}: {result}\n\n{body}\n'
