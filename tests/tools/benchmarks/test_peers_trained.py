"""The tool on a budget of two iterations: networks of equal parameters, what it trains, keeps and prints."""
import json
import statistics

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmambavision.terminal import run

from ...conftest import load_tool


@pytest.fixture
def tool():
    return load_tool('benchmarks/peers_trained')


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


def test_rows_are_means_of_one_task_and_backbone(tool):
    records = {f'{task}{seed}{name}': dict(
        task=task, variant=name, params=2., seconds=seed + 1, **{
            title: 10. * seed + (name == 'Swin') for title in ('box_ap', 'mask_ap', 'miou')})
        for task in tool.TASKS for seed in (0, 1) for name in ('MambaVision', 'Swin')}
    rows = tool.rows_of(records, {'detection': {'MambaVision': [.5, .1, .2], 'Swin': [.1]},
                                  'segmentation': {'Swin': [.25]}})
    assert [(row['task'], row['variant'], row['runs'], row['milliseconds'], row['seconds']) for row in rows] == [
        ('detection', 'MambaVision', 2, 200., 1.5), ('detection', 'Swin', 2, 100., 1.5),
        ('segmentation', 'Swin', 2, 250., 1.5)]
    assert rows[0]['box_ap'] == rows[0]['mask_ap'] == [0., 10.] and rows[2]['miou'] == [1., 11.]
    assert [tool.as_text(rows[2], key) for key in ('miou', 'box_ap', 'images', 'params', 'seconds', 'runs')] == [
        '6.0 ± 7.1', '', '4.0', '2.000', '2', '2']
    dots = tool.plot(rows).axes[1].lines[0]
    assert dots.get_ydata().tolist() == [1., 11.] and set(dots.get_xdata()) == {250.}


@pytest.mark.slow
def test_the_whole_study(tool, tmp_path, monkeypatch, capsys):
    """Both tasks for two iterations; the records of one are kept when the other is added."""
    monkeypatch.setattr(tool, 'SHAPES', dict(train=4, val=3, size=64))
    monkeypatch.setattr(tool, 'BACKBONES', {name: tool.BACKBONES[name] for name in ('MambaVision', 'ResNet')})
    for task, change in (('detection', 'max_epochs=1'), ('segmentation', 'max_iters=2')):
        path = tmp_path / f'{task}.py'
        path.write_text(f'_base_ = {str(tool.TASKS[task][0])!r}\ntrain_cfg = dict({change})\niterations = 2\n'
                        'train_dataloader = dict(batch_size=2)\n')
        monkeypatch.setitem(tool.TASKS, task, (path, *tool.TASKS[task][1:]))
    folder = tmp_path / 'w'
    arguments = ['--seeds', '1', '--rounds', '2', '--work-dir', str(folder)]
    tool.main([*arguments, '--task', 'detection'])
    assert 'peers: 2 runs, 0 done' in capsys.readouterr().out
    before = {path: path.read_bytes() for path in folder.glob('*.json')}
    tool.main([*arguments, '--markdown'])
    out = capsys.readouterr().out
    assert 'peers: 4 runs, 2 done; 2 to do, about' in out and 'mean ± standard deviation' in out
    assert len(before) == 2 and all(path.read_bytes() == content for path, content in before.items())
    lines = [line for line in out.splitlines() if line.startswith(('| detection', '| segmentation'))]
    assert len(lines) == 4 and (folder / 'peers.png').stat().st_size > 5000
    record = json.loads((folder / 'segmentation_ResNet_seed0.json').read_text())
    assert 0 <= record['miou'] <= 100 and f"{record['miou']:.1f}" in lines[3]
    assert statistics.mean([record['params'], 2.308]) == pytest.approx(2.308, rel=.05)
    (folder / 'detection_ResNet_seed0' / 'weights.pth').unlink()
    with pytest.raises(SystemExit, match='ResNet_seed0.*weights.pth is missing'):
        run(lambda: tool.main(arguments))


@pytest.mark.parametrize('arguments, message', [
    (['--seeds', '0'], '--seeds and --rounds must be at least 1'), (['--rounds', '0'], 'must be at least 1'),
    (['--work-dir', __file__], 'cannot be written')])
def test_mistakes(tool, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(lambda: tool.main(arguments))
