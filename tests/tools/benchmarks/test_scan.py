import csv

import pytest
import torch

from ...helpers.process import load_tool


def test_a_row_for_every_combination(tmp_path, capsys):
    tool = load_tool('benchmarks/scan')
    arguments = ['--shapes', 'ImageNet, level 3', '--batch', '1', '2', '--dtype', 'float32',
                 '--backends', 'chunked', 'cpu', '--layout', 'sequence-last', '--seconds', '0.01',
                 '--csv', str(tmp_path / 't.csv')]
    tool.main(arguments)
    assert 'sequence-last; a copy moves' in capsys.readouterr().out
    with open(tmp_path / 't.csv') as file:
        header, *rows = csv.reader(file)
    assert [tuple(row[1:4]) for row in rows] == [('1', 'float32', 'chunked'), ('1', 'float32', 'cpu'),
                                                ('2', 'float32', 'chunked'), ('2', 'float32', 'cpu')]
    assert all(float(row[4]) > 0 and float(row[6]) > 0 for row in rows)
    with pytest.raises(SystemExit, match='exists already'):
        tool.main(arguments)


def test_step_loop_is_the_scan():
    tool = load_tool('benchmarks/scan')
    inputs = tool.make_inputs(2, 6, 9, torch.float32, 'cpu')
    torch.testing.assert_close(tool.scan(inputs, tool.LOOP), tool.scan(inputs, 'reference'), rtol=1e-5, atol=1e-5)
