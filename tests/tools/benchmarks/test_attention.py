import csv

import pytest
import torch

from mmmambavision.errors import UserError
from mmmambavision.ops.attention import available_backends, cpu

from ...helpers.process import load_tool

needs_kernel = pytest.mark.skipif(bool(available_backends()['cpu'] or cpu.refuses(torch.empty(0))), reason='no kernel')


@needs_kernel
def test_a_row_for_every_type_and_length(tmp_path, capsys):
    tool = load_tool('benchmarks/attention')
    arguments = ['--keys', '96', '64', '--heads', '2', '--dtype', 'float32', '--rounds', '2', '--csv',
                 str(tmp_path / 't.csv')]
    tool.main(arguments)
    said = capsys.readouterr().out
    assert f'{torch.get_num_threads()} threads; torch' in said
    assert 'float32: ours is faster from this many keys on: forward ' in said
    with open(tmp_path / 't.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['type'], row['keys'], row['heads'], row['size']) for row in rows] == [
        ('float32', '64', '2', '40'), ('float32', '96', '2', '40')]
    assert all(float(row[key]) > 0 for row in rows for key in ('torch_forward', 'cpu_both', 'forward', 'both'))
    with pytest.raises(UserError, match='exists already'):
        tool.main(arguments)


def test_border_is_the_last_crossing():
    tool = load_tool('benchmarks/attention')
    rows = [dict(keys=keys, forward=ratio) for keys, ratio in ((100, 1.1), (200, .9), (400, 1.), (800, 2.))]
    assert tool.border(rows, 'forward') == 400
    assert tool.border(rows[:2], 'forward') is None and tool.border(rows[:1], 'forward') == 100


def test_without_a_kernel(monkeypatch):
    monkeypatch.setattr(cpu, 'FEATURES', {})
    tool = load_tool('benchmarks/attention')
    monkeypatch.setattr(tool, 'available_backends', lambda: {'cpu': None})
    with pytest.raises(UserError, match='there is no kernel to measure here: it is for CPUs with AVX2 or AVX-512'):
        tool.main([])
