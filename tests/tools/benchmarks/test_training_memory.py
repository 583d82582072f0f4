import pytest

from ...helpers.data import DETECTOR, SEGMENTOR
from ...helpers.process import ROOT, error_of, load_tool

main = load_tool('benchmarks/training_memory').main


@pytest.mark.parametrize('options', [(), pytest.param(('--amp', '--cp'), marks=pytest.mark.slow)])
def test_the_estimate_is_the_size_of_the_tensors(options, capsys):
    main([str(ROOT / SEGMENTOR), '--size', '128', '160', '--batch', '2', '--markdown', *options])
    *_, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[:4] == ['upernet_mambavision_demo', 'bfloat16' if options else 'float32', '2', '128x160']
    assert float(cells[6]) == pytest.approx(1, abs=.1)
    assert float(cells[5]) < float(cells[7])


def test_mistakes():
    assert DETECTOR in error_of('benchmarks/training_memory', ROOT / DETECTOR)
    assert '--steps' in error_of('benchmarks/training_memory', ROOT / SEGMENTOR, '--steps', 0)
