"""The report on a GPU, as far as it can be seen without one."""
import subprocess
import sys

import pytest
import torch

from ...helpers.process import load_tool, run_tool


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_a_sentence_says_so():
    *_, error = run_tool('benchmarks/check_gpu.py', status=1).splitlines()
    assert error.startswith('error: ') and 'GPU' in error and 'docs/gpu.md' in error


@pytest.mark.parametrize('status', [0, 3])
def test_report(monkeypatch, capsys, status):
    tool = load_tool('benchmarks/check_gpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: 'GPU of a test')
    monkeypatch.setattr(load_tool('benchmarks/check_gpu_run'), 'steps', lambda: {
        'table': [sys.executable, '-c', 'print("noise"); print("| a | b |\\n|---|---|\\n| 1 | 2 |")'],
        'tests': [sys.executable, '-c', f'print("12 passed in 3 s"); print("why"); raise SystemExit({status})']})
    if status:
        with pytest.raises(SystemExit):
            tool.main([])
    else:
        tool.main([])
    out = capsys.readouterr().out
    assert out.startswith('# mmmambavision on a GPU') and '- GPU of a test, CUDA' in out
    assert '- scan `reference`: present' in out
    assert '\n| a | b |\n|---|---|\n| 1 | 2 |\n' in out and 'noise' not in out
    assert ('## tests: FAILED' in out and 'why' in out) if status else ('## tests: passed' in out and 'why' not in out)


def test_benchmarks_take_the_options_of_their_steps(monkeypatch, capsys):
    steps = load_tool('benchmarks/check_gpu_run').steps()

    def options(title):
        command = [str(part) for part in steps[title]]
        return command[1 + next(index for index, part in enumerate(command) if part.endswith('.py')):]

    args = load_tool('benchmarks/speed').parse_args(options('benchmark of backbones'))
    assert len(args.models) == 5 and (args.batch, args.rounds, args.amp, args.train) == (2, 20, True, True)
    assert load_tool('benchmarks/depthwise').parse_args(options('benchmark of the depthwise convolution')).markdown
    scan, work = load_tool('benchmarks/scan'), load_tool('benchmarks/scan_run')
    monkeypatch.setattr(work, 'copy_bandwidth', lambda *_: 1e9)
    monkeypatch.setattr(work, 'measure', lambda *_: ['1'] * 5)
    scan.main(options('benchmark of the scan'))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(lines) > 2 + len(scan.SHAPES) and len({line.count('|') for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.parametrize('title', ['tests of the scan', 'golden cases'])
def test_tests_of_the_steps_are_found(title, tmp_path):
    command = [str(part) for part in load_tool('benchmarks/check_gpu_run').steps()[title]]
    done = subprocess.run([*command, '--collect-only', '-q'], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr  # it is 5 where there are none


@pytest.mark.full
def test_the_ten_iterations(tmp_path):
    """The demo's two steps, on a CPU: fit_to_machine takes away what needs a GPU."""
    steps = load_tool('benchmarks/check_gpu_run').steps()
    for title in ('drawing 40 images', 'ten iterations of the demo, mixed precision'):
        done = subprocess.run([str(part) for part in steps[title]], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert '[10/10]' in done.stdout and (tmp_path / 'demo' / 'epoch_1.pth').is_file()
