import csv
import re
from importlib import import_module

import pytest
import torch

from mmmambavision.errors import UserError
from mmmambavision.ops.attn import available_backends, cpu

from ...helpers.process import load_tool

needs_kernel = pytest.mark.skipif(bool(available_backends()['cpu'] or cpu.refuses(torch.empty(0))), reason='no kernel')


@needs_kernel
def test_a_row_for_every_type_and_length(tmp_path, capsys, monkeypatch):
    """With times of the test."""
    tool = load_tool('benchmarks/attention')
    seconds = {('torch', 'forward'): .004, ('torch', 'both'): .01, ('cpu', 'forward'): .002, ('cpu', 'both'): .02}
    monkeypatch.setattr(import_module('benchmarking.attention'), 'times_in_turn', lambda calls, rounds, _: {
        key: [call() or seconds[key]] * rounds for key, call in calls.items()})
    arguments = ['--keys', '96', '64', '--heads', '2', '--dtype', 'float32', '--rounds', '2', '--csv',
                 str(tmp_path / 't.csv')]
    tool.main(arguments)
    said = capsys.readouterr().out
    assert f'{torch.get_num_threads()} threads' in said
    *_, faster = said.splitlines()
    assert 'float32' in faster and 'forward 64' in faster and not re.search(r'both \d', faster)
    with open(tmp_path / 't.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['type'], row['keys'], row['heads'], row['size']) for row in rows] == [
        ('float32', '64', '2', '40'), ('float32', '96', '2', '40')]
    keys = ('torch_forward', 'cpu_forward', 'forward', 'torch_both', 'cpu_both', 'both')
    assert [[row[key] for key in keys] for row in rows] == [['4.00', '2.00', '2.00', '10.00', '20.00', '0.50']] * 2
    with pytest.raises(UserError, match='t.csv'):
        tool.main(arguments)


def test_border_is_the_last_crossing():
    tool = import_module('benchmarking.attention')
    rows = [dict(keys=keys, forward=ratio) for keys, ratio in ((100, 1.1), (200, .9), (400, 1.), (800, 2.))]
    assert tool.border(rows, 'forward') == 400
    assert tool.border(rows[:2], 'forward') is None and tool.border(rows[:1], 'forward') == 100


def test_without_a_kernel(monkeypatch):
    monkeypatch.setattr(cpu, 'features', lambda: {})
    tool = load_tool('benchmarks/attention')
    monkeypatch.setattr(import_module('benchmarking.attention'), 'available_backends', lambda: {'cpu': None})
    with pytest.raises(UserError, match='AVX2'):
        tool.main([])
