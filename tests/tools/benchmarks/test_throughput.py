import csv
from importlib import import_module

import cv2
import pytest

pytest.importorskip('timm')

from mmmambavision.terminal import run

from ...helpers.messages import facts
from ...helpers.process import load_tool

main = load_tool('benchmarks/throughput').main


@pytest.fixture(scope='module')
def tool():
    return import_module('benchmarking.throughput')


# MambaVision, and one of each family whose figures are published to three digits.
@pytest.mark.parametrize('name', [
    'mambavision_tiny2', 'mambavision_small', 'mambavision_base', 'mambavision_large', 'mambavision_large2',
    'mambavision_large3.in21k_ft_in1k_256', 'convnext_base', 'nextvit_large', 'mambaout_base'])
def test_counted_is_as_published(tool, name):
    size, _, params, flops = tool.known(name)
    counted = tool.counts(name, size)
    assert counted['params'] == pytest.approx(params, rel=.01)
    assert counted['layers'] == pytest.approx(flops, rel=.011)


def test_tiny_counts_more_than_published(tool):
    """4.46 G against 4.4; attention's products come on top."""
    counted = tool.counts('mambavision_tiny', 224)
    assert counted['params'] == pytest.approx(31.8, rel=.01) and counted['layers'] == pytest.approx(4.46, abs=.005)
    attention = sum(blocks * 2 * tokens ** 2 * windows * dim for blocks, tokens, windows, dim in (
        (4, 196, 1, 320), (2, 49, 1, 640))) / 1e9
    assert counted['attention'] == pytest.approx(attention, rel=1e-3)


@pytest.mark.slow
def test_table_and_plot(tool, tmp_path, capsys, monkeypatch):
    """With times of the test: half a second for the first, a quarter for the second."""
    from matplotlib import pyplot
    monkeypatch.setattr(tool, 'times_in_turn', lambda calls, rounds, _: {
        name: [call() or seconds] * rounds for (name, call), seconds in zip(calls.items(), (.5, .25))})
    models = ['mambavision_tiny', 'mambaout_tiny']
    main(['--models', *models, '--batch', '1', '--rounds', '1', '--csv', str(tmp_path / 't.csv'), '--plot',
          str(tmp_path / 'p.png'), '--markdown'])
    with (tmp_path / 't.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [[row[key] for key in ('model', 'top1', 'images', 'ratio')] for row in rows] == [
        [models[0], '82.3', '2.0', '1.00'], [models[1], '82.7', '4.0', '0.50']]
    assert cv2.imread(str(tmp_path / 'p.png')).shape == (600, 960, 3)
    assert [(line.get_label(), *line.get_xdata(), *line.get_ydata()) for line in pyplot.gcf().axes[0].lines] == [
        ('mambavision', 2., 82.3), ('mambaout', 4., 82.7)]
    assert len({line.count('|') for line in capsys.readouterr().out.splitlines() if '|' in line}) == 1


@pytest.mark.parametrize('arguments, message', [
    (['--models', 'nothing'], "'nothing'"), (['--batch', '0'], '--batch'), (['--rounds', '-1'], '--rounds'),
    (['--rounds', '0', '--plot', 'x.png'], facts('--plot', '--rounds')),
    (['--models', 'resnet18', '--plot', 'x.png'], facts('--plot', 'top-1')),
    (['--models', 'mambavision_tiny.in2k'], 'mambavision_tiny.in2k'), (['--csv', 'no_folder/x.csv'], 'no_folder')])
def test_mistakes(arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(lambda: main(arguments))


def test_branches_are_merged_before_a_model_is_timed(tool):
    args = load_tool('benchmarks/throughput').parse_args(['--batch', '1', '--device', 'cpu'])
    model = tool.Model('fastvit_sa24', args).model
    blocks = [module for module in model.modules() if hasattr(module, 'reparam_conv')]
    assert blocks and all(block.reparam_conv is not None for block in blocks)
