import csv
from importlib import import_module

import cv2
import pytest
import torch
from matplotlib import pyplot

from mmmambavision.errors import UserError

from ...helpers.messages import facts
from ...helpers.process import ROOT, load_tool

TINY = 'mambavision-t:window_size=7,7'


def rows_of(file):
    with open(file) as lines:
        return list(csv.DictReader(lines))


def times_of_the_test(calls, rounds, advance):
    """In the place of `times_in_turn`: the first call takes .2 s, the second .4 s, and so on."""
    for call in calls.values():
        call()
    return {key: [.2 * number] * rounds for number, key in enumerate(calls, 1)}


@pytest.mark.slow
def test_models_in_turn_at_several_sizes(tmp_path, capsys, monkeypatch):
    tool = load_tool('benchmarks/speed')
    monkeypatch.setattr(import_module('benchmarking.speed'), 'times_in_turn', times_of_the_test)
    arguments = ['resnet50', TINY, '--size', '64x64', '64x96', '--rounds', '1', '--train', '--amp', '--markdown',
                 '--csv', str(tmp_path / 't.csv'), '--plot', str(tmp_path / 'p.png')]
    tool.main(arguments)
    header, rule, *lines = capsys.readouterr().out.strip().splitlines()[1:]
    assert len({line.count('|') for line in (header, rule, *lines)}) == 1
    rows = rows_of(tmp_path / 't.csv')
    assert [(row['model'], row['size']) for row in rows] == [
        ('resnet50', '64x64'), (TINY, '64x64'), ('resnet50', '64x96'), (TINY, '64x96')]
    assert [row['params'] for row in rows] == ['23.51', '31.15'] * 2
    assert [row['box_ap'] for row in rows] == ['46.3', ''] * 2  # published for padded windows of 112 and 56 alone
    keys = ('forward', 'forward_amp', 'train', 'train_amp')
    assert [[row[key] for key in (*keys, 'images')] for row in rows] == 2 * [
        ['200.0', '400.0', '600.0', '800.0', '5.00'], ['1000.0', '1200.0', '1400.0', '1600.0', '1.00']]
    assert [[row[f'{key}_ratio'] for key in keys] for row in rows] == 2 * [
        ['1.00'] * 4, ['5.00', '3.00', '2.33', '2.00']]
    assert all(float(row['train_memory']) > float(row['forward_memory']) > 0 for row in rows)
    assert cv2.imread(str(tmp_path / 'p.png')).shape == (456, 1080, 3)
    times, memory = pyplot.gcf().axes
    for milliseconds, own, line, other in zip((200., 1000.), (rows[::2], rows[1::2]), times.lines, memory.lines):
        assert line.get_label() == own[0]['model'] and line.get_xdata() == pytest.approx([.004096, .006144])
        assert line.get_ydata() == pytest.approx([milliseconds / .004096, milliseconds / .006144])
        assert other.get_ydata() == pytest.approx([float(row['forward_memory']) for row in own], abs=.5)
    with pytest.raises(UserError, match='t.csv'):
        tool.main(arguments)


def test_bfloat16_is_what_runs():
    measured, seen = import_module('benchmarking.measured').Measured('resnet50', 1, (32, 32), 'cpu'), []
    measured.model.register_forward_hook(lambda model, _, outputs: seen.append(outputs[0].dtype))
    for amp in (True, False):
        measured.forward(amp)
    assert seen == [torch.bfloat16, torch.float32]


def test_plot_of_speed_against_published_ap(tmp_path, monkeypatch):
    tool = load_tool('benchmarks/speed')
    monkeypatch.setattr(import_module('benchmarking.speed'), 'times_in_turn', times_of_the_test)
    tool.main(['resnet50', 'mambavision-t', '--size', '64x64', '--rounds', '1', '--fuse',
                                    '--plot', str(tmp_path / 'p.png')])
    assert cv2.imread(str(tmp_path / 'p.png')).shape == (540, 840, 3)
    axis, = pyplot.gcf().axes
    assert [text.get_text() for text in axis.texts] == ['resnet50', 'mambavision-t'] and '64x64' in axis.get_xlabel()
    published = import_module('benchmarking.peers').published_box_ap
    assert [(*line.get_xdata(), *line.get_ydata()) for line in axis.lines] == [
        (pytest.approx(5.), published('resnet50')), (pytest.approx(2.5), published('mambavision-t'))]


@pytest.mark.parametrize('config', ['cascade_mask_rcnn_mambavision_demo.py', 'upernet_mambavision_demo.py'])
def test_whole_models(tmp_path, config, monkeypatch):
    tool = load_tool('benchmarks/speed')
    monkeypatch.setattr(import_module('benchmarking.speed'), 'times_in_turn', times_of_the_test)
    tool.main([str(ROOT / 'configs' / config), '--size', '64x96', '--batch', '2', '--rounds',
                                        '1', '--train', '--csv', str(tmp_path / 't.csv')])
    row, = rows_of(tmp_path / 't.csv')
    assert (row['forward'], row['train'], row['images']) == ('200.0', '400.0', '10.00')
    assert float(row['train_memory']) > float(row['forward_memory']) > 0


def test_times_are_taken_in_turn():
    tool, order = import_module('benchmarking.measure'), []
    times = tool.times_in_turn({name: lambda name=name: order.append(name) for name in 'AB'}, rounds=2,
                              advance=lambda: None)
    assert order == ['A', 'B'] * 3
    assert [len(values) for values in times.values()] == [2, 2]


def test_peak_memory_is_what_was_allocated_at_most():
    measured = import_module('benchmarking.measured').Measured('resnet50', 1, (32, 32), 'cpu')

    def call():
        for megabytes in (1, 5, 2):
            a = torch.empty(megabytes * 2 ** 20, dtype=torch.uint8)
            b = torch.empty(megabytes * 2 ** 20, dtype=torch.uint8)
            del a, b

    assert measured.peak_memory(call) == pytest.approx(10 * 2 ** 20, rel=.01)


@pytest.mark.parametrize('name', ['resnet50', 'swin-t', 'resnext101-32x4d', 'convnext-t', 'mambavision-t'])
def test_published_flops_within_a_percent(name):
    peers, paper_table = import_module('benchmarking.peers'), import_module('benchmarking.paper_table')
    params, (layers, _, _) = paper_table.measure(name)
    published = peers.PUBLISHED[name]
    assert layers == pytest.approx(published[1], rel=.01)
    if name != 'mambavision-t':  # whose published parameters do not follow from its released configs
        assert params == pytest.approx(published[0], rel=.01)


def test_paper_table(monkeypatch, capsys):
    tool, peers = load_tool('benchmarks/speed'), import_module('benchmarking.peers')
    monkeypatch.setattr(peers, 'PUBLISHED', {'deit-s': peers.PUBLISHED['deit-s']})
    tool.main(['--paper-table', '--markdown'])
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert [cell.strip() for cell in row.split('|')[1:4]] == ['deit-s', '81.6', '80'] and '+1.5%' in row


@pytest.mark.parametrize('arguments, message', [
    ([], '--paper-table'), (['swin-x'], facts('swin-x', 'resnet50')), (['configs/none.py'], 'configs/none.py'),
    (['swin-t:with_cp=True'], facts('with_cp=True', 'MambaVision')),
    (['mambavision-t:with_cp'], facts('with_cp', 'key=value')), (['mambavision-t:speed=1'], "'speed'"),
    (['swin-t', '--size', '800'], '--size 800'), (['swin-t', '--fuse', '--train'], facts('--fuse', '--train')),
    ([str(ROOT / 'configs' / 'upernet_mambavision_demo.py'), '--train', '--size', '64x64', '--rounds', '1'],
     '--batch 2'),
])
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        load_tool('benchmarks/speed').main(arguments)


def test_every_backbone_can_be_named():
    assert tuple(import_module('benchmarking.peers').BACKBONES) == import_module('benchmarking.names').NAMES
