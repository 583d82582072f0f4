"""The tool on a budget of two iterations: networks of equal parameters, what it trains, keeps and prints."""
import json
import statistics
from importlib import import_module

import cv2
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmambavision.errors import UserError
from mmmambavision.terminal import run

from ...helpers.messages import facts
from ...helpers.process import load_tool

main = load_tool('benchmarks/peers_trained').main


@pytest.fixture
def tool():
    return import_module('benchmarking.peers_trained')


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_backbones_have_equal_parameters_and_feed_the_heads(tool, task):
    cfg = Config.fromfile(tool.TASKS[task][0])
    init_default_scope(cfg.default_scope)
    parameters = {}
    for name, (channels, backbone) in tool.BACKBONES.items():
        fitted = tool.fit(cfg, channels, backbone)
        part = fitted.model.neck if task == 'detection' else fitted.model.decode_head
        assert part.in_channels == channels
        model = MODELS.build(fitted.model)
        parameters[name] = sum(p.numel() for p in model.backbone.parameters())
    assert all(count == pytest.approx(parameters['MambaVision'], rel=.05) for count in parameters.values())
    assert cfg.model.backbone.type == 'MambaVision'  # the config is as it was


def test_the_best_learning_rate_of_the_first_seed(tool):
    aps = {'Swin': {3e-4: 4., 1e-3: 3., 3e-3: 5.}, 'ResNet': {3e-4: 4., 1e-3: 5., 3e-3: 3.}}
    records = {tool.run_of('detection', name, seed, rate).file: dict(box_ap=ap if seed == 0 else 9 - ap, mask_ap=9 - ap)
               for name, of_rate in aps.items() for rate, ap in of_rate.items() for seed in (0, 1)}
    assert [tool.best_rate(records, 'detection', name) for name in aps] == [3e-3, 1e-3]


def test_rows_are_means_of_one_task_and_backbone(tool):
    records = {f'{task}{seed}{name}{rate}': dict(
        task=task, variant=name, rate=rate, params=2., model=3., seconds=seed + 1, **{
            title: 10. * seed + (name == 'Swin') for title in ('box_ap', 'mask_ap', 'miou')})
        for task in tool.TASKS for seed in (0, 1) for name in ('MambaVision', 'Swin')
        for rate in ((1e-3, 3e-3) if seed == 0 else (3e-3,))}
    rates = {task: dict(MambaVision=3e-3, Swin=3e-3) for task in tool.TASKS}
    rows = tool.rows_of(records, rates, {'detection': {'MambaVision': [.5, .1, .2], 'Swin': [.1]},
                                         'segmentation': {'Swin': [.25]}})
    assert [(row['task'], row['variant'], row['rate'], row['runs'], row['milliseconds'], row['seconds'])
            for row in rows] == [(*both, '0.003', 2, milliseconds, 1.5) for both, milliseconds in (
                (('detection', 'MambaVision'), 200.), (('detection', 'Swin'), 100.), (('segmentation', 'Swin'), 250.))]
    assert rows[0]['box_ap'] == rows[0]['mask_ap'] == [0., 10.] and rows[2]['miou'] == [1., 11.]
    keys = ('miou', 'box_ap', 'images', 'params', 'model', 'seconds', 'runs')
    assert [tool.as_text(rows[2], key) for key in keys] == ['6.0 ± 7.1', '', '4.0', '2.000', '3.00', '2', '2']
    dots = tool.plot(rows).axes[1].lines[0]
    assert dots.get_ydata().tolist() == [1., 11.] and set(dots.get_xdata()) == {250.}


def test_weights_that_are_damaged_or_missing(tool, tmp_path):
    cfg = tool.load(tool.TASKS['segmentation'][0], tool.draw_data(dict(train=1, val=1, size=64), tmp_path) / 'ade')
    rates = dict.fromkeys(tool.BACKBONES, 1e-3)
    weights = tmp_path / 'segmentation_MambaVision_seed0_lr0.001' / 'weights.pth'
    again = facts(weights, 'segmentation_MambaVision_seed0_lr0.001.json')
    weights.parent.mkdir()
    for content in (None, b'', b'PK\x03\x04 and no more'):
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(UserError, match=again):
            tool.measure(cfg, tmp_path, 'segmentation', rates, 1)


@pytest.mark.full
def test_the_whole_study(tool, tmp_path, monkeypatch, capsys):
    """Both tasks for two iterations; the records of one are kept when the other is added."""
    monkeypatch.setattr(tool, 'SHAPES', dict(train=4, val=3, size=64))
    monkeypatch.setattr(tool, 'BACKBONES', {name: tool.BACKBONES[name] for name in ('MambaVision', 'ResNet')})
    for task, change in (('detection', 'max_epochs=1'), ('segmentation', 'max_iters=2')):
        path = tmp_path / f'{task}.py'
        path.write_text(f'_base_ = {str(tool.TASKS[task][0])!r}\ntrain_cfg = dict({change})\niterations = 2\n'
                        'train_dataloader = dict(batch_size=2)\n')
        monkeypatch.setitem(tool.TASKS, task, (path, *tool.TASKS[task][1:]))
    monkeypatch.setattr(tool, 'LEARNING_RATES', (1e-4, 1e-2))
    folder = tmp_path / 'w'
    arguments = ['--seeds', '2', '--rounds', '2', '--work-dir', str(folder)]
    main([*arguments, '--task', 'detection'])
    out = capsys.readouterr().out
    assert '4 runs, 0 done' in out and '2 runs, 0 done' in out
    before = {path: path.read_bytes() for path in folder.glob('*.json')}
    main([*arguments, '--markdown'])
    out = capsys.readouterr().out
    assert '8 runs, 4 done' in out and '4 runs, 2 done' in out
    assert len(before) == 6 and all(path.read_bytes() == content for path, content in before.items())
    lines = [line for line in out.splitlines() if line.startswith(('| detection', '| segmentation'))]
    assert len(lines) == 4
    picture = cv2.imread(str(folder / 'peers.png'))
    for colour in ((31, 119, 180), (255, 127, 14)):  # of the first and of the second backbone
        assert (picture[..., ::-1] == colour).all(-1).any()
    first = {rate: json.loads((folder / f'segmentation_ResNet_seed0_lr{rate}.json').read_text())
             for rate in ('0.0001', '0.01')}
    best = max(first, key=lambda rate: first[rate]['miou'])
    second = json.loads((folder / f'segmentation_ResNet_seed1_lr{best}.json').read_text())
    mean = statistics.mean([first[best]['miou'], second['miou']])
    assert f'| {best} | 2 | ' in lines[3] and f'{mean:.1f} ± ' in lines[3] and first['0.01']['miou'] <= 100
    (folder / f'segmentation_ResNet_seed0_lr{best}' / 'weights.pth').unlink()
    with pytest.raises(SystemExit, match='ResNet_seed0.*weights.pth'):
        run(lambda: main(arguments))


@pytest.mark.parametrize('arguments, message', [
    (['--seeds', '0'], '--seeds'), (['--rounds', '0'], '--rounds'), (['--work-dir', __file__], __file__)])
def test_mistakes(tool, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(lambda: main(arguments))


def test_every_task_can_be_named(tool):
    assert tuple(tool.TASKS) == load_tool('benchmarks/peers_trained').TASKS
