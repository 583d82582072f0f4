import csv
from importlib import import_module

import pytest
import torch

from mmmambavision.errors import UserError
from mmmambavision.ops import available_backends

from ...helpers.process import load_tool


def test_a_row_for_every_combination(tmp_path, capsys, monkeypatch):
    """With times of the test: a copy takes a second, then every call a millisecond more than the one before."""
    tool, work = load_tool('benchmarks/scan'), import_module('benchmarking.scan')
    seconds = iter([1., *(n / 1000 for n in range(1, 9))])
    monkeypatch.setattr(work, 'median_seconds', lambda call, *_: call() is call or next(seconds))
    arguments = ['--shapes', 'ImageNet, level 3', '--batch', '1', '2', '--dtype', 'float32',
                 '--backends', 'chunked', 'cpu', '--layout', 'sequence-last', '--seconds', '0.01',
                 '--csv', str(tmp_path / 't.csv')]
    tool.main(arguments)
    said = capsys.readouterr().out
    assert 'sequence-last' in said and '0.5 GB/s' in said  # 256 MiB, read and written
    with open(tmp_path / 't.csv') as file:
        _, *rows = csv.reader(file)
    assert [tuple(row[1:4]) for row in rows] == [('1', 'float32', 'chunked'), ('1', 'float32', 'cpu'),
                                                ('2', 'float32', 'chunked'), ('2', 'float32', 'cpu')]
    for number, (_, batch, *_, forward, of_copy, both, of_copy_both, _) in enumerate(rows):
        size = 4 * (int(batch) * 49 * (3 * 320 + 2 * 8) + 320 * (8 + 2))
        assert (forward, both) == (f'{2 * number + 1}.00', f'{2 * number + 2}.00')
        assert of_copy == f'{size / (2 * number + 1) * 1e3 / 2 ** 29:.1%}'
        assert of_copy_both == f'{3 * size / (2 * number + 2) * 1e3 / 2 ** 29:.1%}'
    with pytest.raises(UserError, match='t.csv'):
        tool.main(arguments)


def test_step_loop_is_the_scan():
    tool = import_module('benchmarking.scan')
    inputs = tool.make_inputs(2, 6, 9, torch.float32, 'cpu')
    torch.testing.assert_close(tool.scan(inputs, tool.LOOP), tool.scan(inputs, 'reference'), rtol=1e-5, atol=1e-5)


def test_every_implementation_can_be_named():
    assert (*available_backends(), import_module('benchmarking.scan').LOOP) == load_tool('benchmarks/scan').BACKENDS
