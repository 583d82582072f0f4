"""The report on a GPU, as far as it can be seen without one."""
import subprocess
import sys

import pytest
import torch

from ...helpers.process import load_tool, run_tool


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_a_sentence_says_so():
    assert run_tool('benchmarks/check_gpu.py', status=1).strip().splitlines()[-1] == (
        'error: torch sees no NVIDIA GPU here, so there is nothing to check; docs/gpu.md says what one needs')


@pytest.mark.parametrize('status', [0, 3])
def test_report(monkeypatch, capsys, status):
    tool = load_tool('benchmarks/check_gpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: 'GPU of a test')
    monkeypatch.setattr(tool, 'steps', lambda: {
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


def test_steps_name_files_that_are_there():
    for command in load_tool('benchmarks/check_gpu').steps().values():
        for part in command:
            assert not hasattr(part, 'exists') or part.exists(), part


@pytest.mark.slow
def test_the_ten_iterations(tmp_path):
    """The demo's two steps, on a CPU: fit_to_machine takes away what needs a GPU."""
    steps = load_tool('benchmarks/check_gpu').steps()
    for title in ('drawing 40 images', 'ten iterations of the demo, mixed precision'):
        done = subprocess.run([str(part) for part in steps[title]], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert '[10/10]' in done.stdout and (tmp_path / 'demo' / 'epoch_1.pth').is_file()
