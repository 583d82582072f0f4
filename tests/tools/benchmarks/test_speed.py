import csv

import pytest
import torch

from mmmambavision.errors import UserError

from ...helpers.process import ROOT, load_tool

TINY = 'mambavision-t:window_size=7,7'


def rows_of(file):
    with open(file) as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_models_in_turn_at_several_sizes(tmp_path, capsys):
    tool = load_tool('benchmarks/speed')
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
    for row in rows:
        assert float(row['forward']) > 0 and float(row['train_memory']) > float(row['forward_memory']) > 0
        assert float(row['images']) == pytest.approx(1e3 / float(row['forward']), rel=.02)
        assert float(row['forward_amp']) > 0 and float(row['train_amp']) > float(row['forward_amp'])
    assert rows[0]['forward_ratio'] == rows[2]['train_ratio'] == rows[0]['train_amp_ratio'] == '1.00'
    assert (tmp_path / 'p.png').stat().st_size > 10000
    with pytest.raises(UserError, match='exists already'):
        tool.main(arguments)


def test_bfloat16_is_what_runs():
    measured, seen = load_tool('benchmarks/measured').Measured('resnet50', 1, (32, 32), 'cpu'), []
    measured.model.register_forward_hook(lambda model, _, outputs: seen.append(outputs[0].dtype))
    for amp in (True, False):
        measured.forward(amp)
    assert seen == [torch.bfloat16, torch.float32]


def test_plot_of_speed_against_published_ap(tmp_path):
    load_tool('benchmarks/speed').main(['resnet50', 'mambavision-t', '--size', '64x64', '--rounds', '1', '--fuse',
                                    '--plot', str(tmp_path / 'p.png')])
    assert (tmp_path / 'p.png').stat().st_size > 10000


@pytest.mark.parametrize('config', ['cascade_mask_rcnn_mambavision_demo.py', 'upernet_mambavision_demo.py'])
def test_whole_models(tmp_path, config):
    load_tool('benchmarks/speed').main([str(ROOT / 'configs' / config), '--size', '64x96', '--batch', '2', '--rounds',
                                        '1', '--train', '--csv', str(tmp_path / 't.csv')])
    row, = rows_of(tmp_path / 't.csv')
    assert float(row['train']) > float(row['forward']) > 0


def test_times_are_taken_in_turn():
    tool, order = load_tool('benchmarks/speed'), []
    times = tool.times_in_turn({name: lambda name=name: order.append(name) for name in 'AB'}, rounds=2,
                              advance=lambda: None)
    assert order == ['A', 'B'] * 3
    assert [len(values) for values in times.values()] == [2, 2]


def test_peak_memory_is_what_was_allocated_at_most():
    measured = load_tool('benchmarks/measured').Measured('resnet50', 1, (32, 32), 'cpu')

    def call():
        for megabytes in (1, 5, 2):
            a = torch.empty(megabytes * 2 ** 20, dtype=torch.uint8)
            b = torch.empty(megabytes * 2 ** 20, dtype=torch.uint8)
            del a, b

    assert measured.peak_memory(call) == pytest.approx(10 * 2 ** 20, rel=.01)


@pytest.mark.parametrize('name', ['resnet50', 'swin-t', 'resnext101-32x4d', 'convnext-t', 'mambavision-t'])
def test_published_flops_within_a_percent(name):
    peers, paper_table = load_tool('benchmarks/peers'), load_tool('benchmarks/paper_table')
    params, (layers, _, _) = paper_table.measure(name)
    published = peers.PUBLISHED[name]
    assert layers == pytest.approx(published[1], rel=.01)
    if name != 'mambavision-t':  # whose published parameters do not follow from its released configs
        assert params == pytest.approx(published[0], rel=.01)


def test_paper_table(monkeypatch, capsys):
    tool, peers = load_tool('benchmarks/speed'), load_tool('benchmarks/peers')
    monkeypatch.setattr(peers, 'PUBLISHED', {'deit-s': peers.PUBLISHED['deit-s']})
    tool.main(['--paper-table', '--markdown'])
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert [cell.strip() for cell in row.split('|')[1:4]] == ['deit-s', '81.6', '80'] and '+1.5%' in row


@pytest.mark.parametrize('arguments, message', [
    ([], 'nothing to measure: name configs or backbones'),
    (['swin-x'], "unknown backbone 'swin-x': give a config file or one of resnet50"),
    (['configs/none.py'], 'config not found: configs/none.py'),
    (['swin-t:with_cp=True'], "options, such as :with_cp=True, are MambaVision's alone"),
    (['mambavision-t:with_cp'], 'with_cp is no option; write it as key=value'),
    (['mambavision-t:speed=1'], "unexpected keyword argument 'speed'"),
    (['swin-t', '--size', '800'], '--size 800: write sizes as HEIGHTxWIDTH'),
    (['swin-t', '--fuse', '--train'], '--fuse is for inference'),
    ([str(ROOT / 'configs' / 'upernet_mambavision_demo.py'), '--train', '--size', '64x64', '--rounds', '1'],
     'cannot train on one image: --batch 2'),
])
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        load_tool('benchmarks/speed').main(arguments)
