import re

from mmmambavision.ops.depthwise import available_backends

from ...helpers.process import load_tool


def test_a_row_for_every_combination(capsys):
    load_tool('benchmarks/depthwise').main(['--shapes', 'ImageNet, level 3', '--batch', '1', '--dtype', 'float32',
                                            '--backends', 'torch', 'shifted', '--seconds', '0.01', '--markdown'])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ImageNet')]
    assert [re.search('torch|shifted', row)[0] for row in rows] == ['torch', 'shifted']
    assert all(float(number) > 0 for row in rows for number in re.findall(r'\d+\.\d+', row))


def test_every_implementation_can_be_named():
    assert tuple(available_backends()) == load_tool('benchmarks/depthwise').BACKENDS
