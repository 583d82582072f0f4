"""The check of a GPU, as far as it can be tried without one."""
import json
import sys
import time
from importlib import import_module

import pytest
import torch

from mmmambavision.errors import UserError

from ...helpers.messages import facts
from ...helpers.process import load_tool, run_tool


def fake(monkeypatch, **parts):
    """Let the check have these parts alone."""
    work = import_module('benchmarking.check_gpu')
    monkeypatch.setattr(work, 'all_parts', lambda device, quick: {
        name: work.Part(name, command, 60 if name != 'late' else 4, None if command else 'needs two GPUs')
        for name, command in parts.items()})


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_a_sentence_says_so(tmp_path):
    with pytest.raises(UserError, match=facts('GPU', 'docs/gpu.md', '--device cpu')):
        load_tool('benchmarks/check_gpu').main(['--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_every_part_is_in_the_report_when_it_ends(monkeypatch, tmp_path, capfd):
    def say(text, status=0):
        return [sys.executable, '-c', f'print({text!r}); raise SystemExit({status})']

    # The third part reads the report that the first two have left, and the fourth starts what outlives it.
    seen = f"print('sections passed', open({str(tmp_path / 'out/report.md')!r}).read().count('##'))"
    late = "import subprocess, time; subprocess.Popen(['sleep', '50']); print('begun', flush=True); time.sleep(50)"
    fake(monkeypatch, table=say('noise\n| a | b |\n|---|---|\n| 1 | 2 |'), tests=say('12 passed in 3 s\nwhy', 3),
         reader=[sys.executable, '-c', seen], late=[sys.executable, '-c', late], pair=None)
    begin = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        load_tool('benchmarks/check_gpu').main(['--device', 'cpu', '--out', str(tmp_path / 'out')])
    assert stop.value.code == 1 and time.monotonic() - begin < 40
    report = (tmp_path / 'out' / 'report.md').read_text()
    assert '\n| a | b |\n|---|---|\n| 1 | 2 |\n' in report and 'noise' not in report
    assert '## tests: FAILED' in report and 'why' in report and 'passed 2' in report
    assert '## late: OUT OF TIME' in report and 'begun' in report and 'needs two GPUs' in report
    records = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert [record['status'] for record in records] == ['passed', 'FAILED', 'passed', 'OUT OF TIME', 'left out']
    assert records[0]['output'].startswith('noise')


def test_mistakes_are_told_before_anything_runs(monkeypatch, tmp_path):
    fake(monkeypatch, versions=[sys.executable, '-c', ''])
    main = load_tool('benchmarks/check_gpu').main
    with pytest.raises(UserError, match=facts('speeed', 'versions')):
        main(['--device', 'cpu', '--only', 'speeed', '--out', str(tmp_path / 'out')])
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(UserError, match=facts(tmp_path, '--out')):
        main(['--device', 'cpu', '--out', str(tmp_path)])
    main(['--device', 'cpu', '--out', str(tmp_path / 'out'), '--only', 'versions'])
    assert (tmp_path / 'out' / 'report.md').is_file() and (tmp_path / 'mine.txt').is_file()


def test_commands_of_the_gpu_take_their_options():
    """Those of benchmarks are parsed; the others run in the rehearsal with the same options."""
    parts = import_module('benchmarking.check_gpu').all_parts('cuda', True)
    for name in ('scan', 'depthwise', 'speed'):
        command = [str(part) for part in parts[name].command]
        start = next(index for index, part in enumerate(command) if part.endswith('.py'))
        load_tool(f'benchmarks/{name}').parse_args(command[start + 1:])
    for name in ('memory', 'profile', 'graph', 'second', 'attention', 'versions'):
        assert parts[name].command[-1] != 'cpu' and name in import_module('benchmarking.check_gpu_parts').PARTS


@pytest.mark.slow
def test_rehearsal(tmp_path):
    run_tool('benchmarks/check_gpu.py', '--device', 'cpu', '--quick', '--out', tmp_path / 'out')
    records = {record['part']: record for record in json.loads((tmp_path / 'out' / 'report.json').read_text())}
    assert {name for name, record in records.items() if record['status'] != 'passed'} == {
        'ddp-2', 'graph', 'second'}
    assert '[2/2]' in records['amp']['output'] and '[2/2]' in records['ddp-1']['output']
    assert 'tests collected' in records['scan-triton']['output']
    for part, words in dict(versions='scan `triton`', attention='_scaled_dot_product', memory='estimate MiB',
                            speed='mambavision-t', scan='ImageNet, level 3', profile='aten::').items():
        assert words in records[part]['output']
