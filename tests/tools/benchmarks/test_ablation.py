"""The tool on a budget of two iterations: what it plans, trains, keeps and prints."""
import json
import math
import sys
from importlib import import_module
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config

from mmmambavision import MambaVision
from mmmambavision.models.variants import MIXERS, PATTERNS
from mmmambavision.terminal import run

from ...helpers.messages import facts
from ...helpers.process import ROOT, load_tool

CONFIG = ROOT / 'tools' / 'benchmarks' / 'ablation_config.py'

main = load_tool('benchmarks/ablation').main


@pytest.fixture
def tool():
    return import_module('benchmarking.ablation')


@pytest.fixture
def budget(tmp_path):
    """A config of two iterations."""
    path = tmp_path / 'tiny.py'
    path.write_text(f"_base_ = {str(CONFIG)!r}\ntrain_cfg = dict(max_iters=2)\n"
                    "train_dataloader = dict(batch_size=2)\nshapes = dict(train=4, val=2, size=64)\n")
    return path


@pytest.mark.parametrize('study', ['mixer', 'mixer_alone', 'pattern'])
def test_networks_have_equal_parameters(tool, study):
    cfg = Config.fromfile(CONFIG)
    counts = {(variant, seed): sum(p.numel() for p in MambaVision(**backbone).parameters())
              for _, variant, seed, backbone in tool.plan(cfg, study, 2)}
    names = (*PATTERNS, 'random:SEED') if study == 'pattern' else MIXERS
    assert counts.keys() == {(variant, seed) for variant in names for seed in (0, 1)}
    default = counts['last_half' if study == 'pattern' else 'mambavision', 0]
    assert all(count == pytest.approx(default, rel=.01) for count in counts.values())


def test_the_default_is_as_the_config_has_it(tool):
    cfg = Config.fromfile(CONFIG)
    (name, _, seed, backbone), *_ = tool.plan(cfg, 'mixer', 1)
    assert (name, seed) == ('mambavision_seed0.json', 0)
    assert backbone == dict(arch=dict(cfg.model.backbone.arch, mixer='mambavision', mlp_ratio=4.))


def test_random_patterns_have_a_seed_each(tool):
    patterns = [backbone['arch']['pattern'] for _, variant, _, backbone in tool.plan(
        Config.fromfile(CONFIG), 'pattern', 3) if variant == 'random:SEED']
    assert patterns == ['random:0', 'random:1', 'random:2']


def test_iou_is_by_class_of_all_images(tool):
    metric = import_module('benchmarking.ablation_training').ClassIoU()
    metric.dataset_meta = dict(classes=('background', 'circle', 'star (light)'))
    for predicted, truth in (([0, 1, 1, 2], [0, 1, 2, 2]), ([0, 0, 2, 2], [0, 1, 2, 1])):
        metric.process({}, [dict(pred_sem_seg=dict(data=torch.tensor([predicted])),
                                 gt_sem_seg=dict(data=torch.tensor([truth])))])
    found = metric.evaluate(2)
    assert found == {'IoU/background': pytest.approx(200 / 3), 'IoU/circle': pytest.approx(25.),
                     'IoU/star (light)': pytest.approx(50.)}


def test_a_study_that_was_interrupted_goes_on(tool, budget, tmp_path, capsys, monkeypatch):
    """Stopped in its third run: the two that are done stay, the third begins again."""
    monkeypatch.setitem(tool.STUDIES, 'mixer', {name: tool.STUDIES['mixer'][name] for name in (
        'mambavision', 'conv', 'attention')})
    arguments = ['--study', 'mixer', '--seeds', '1', '--config', str(budget), '--work-dir', str(tmp_path / 'w')]
    original, trained = tool.train_and_evaluate, []

    def stopped(cfg, backbone, *others):
        trained.append(backbone['arch']['mixer'])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(cfg, backbone, *others)

    monkeypatch.setattr(tool, 'train_and_evaluate', stopped)
    with pytest.raises(KeyboardInterrupt, match='2 of 3'):
        main(arguments)
    folder = tmp_path / 'w' / 'mixer'
    records = {path: path.read_bytes() for path in folder.glob('*.json')}
    assert sorted(path.name for path in records) == ['conv_seed0.json', 'mambavision_seed0.json']
    capsys.readouterr()
    figures, plot = [], tool.plot
    monkeypatch.setattr(tool, 'plot', lambda *given: figures.append(plot(*given)) or figures[-1])
    main(arguments)
    assert trained == ['mambavision', 'conv', 'attention', 'attention']
    assert all(path.read_bytes() == content for path, content in records.items())
    out = capsys.readouterr().out
    assert '3 runs, 2 done' in out and 'mambavision' in out
    keys, *rows = (tmp_path / 'w' / 'mixer.csv').read_text().splitlines()
    assert keys == 'variant,params,flops,runs,plain,context,seconds' and len(rows) == 3
    record = json.loads((folder / 'conv_seed0.json').read_text())
    evaluation, = record['evaluations']
    assert rows[1].startswith(f"conv,{record['params']:.3f},{record['flops']:.3f},1,{evaluation['plain']:.1f},")
    plain, context = figures[0].axes
    assert [label.get_text() for label in plain.get_yticklabels()] == ['mambavision', 'conv', 'attention']
    for key, axes in dict(plain=plain, context=context).items():
        assert [*axes.lines[2].get_xdata()] == [evaluation[key]]
    height, width, _ = cv2.imread(str(tmp_path / 'w' / 'mixer.png')).shape
    assert width / height == pytest.approx(11 / (1.4 + 3 * .3), rel=.01)
    budget.write_text(budget.read_text().replace('max_iters=2', 'max_iters=3'))
    with pytest.raises(SystemExit, match='--work-dir'):
        run(lambda: main(arguments))


@pytest.mark.full
def test_windows_are_switched_after_training(tool, budget, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tool.STUDIES, 'windows', {'padded': tool.STUDIES['windows']['padded']})
    main(['--study', 'windows', '--seeds', '1', '--config', str(budget), '--work-dir', str(tmp_path),
          '--markdown'])
    record = json.loads((tmp_path / 'windows' / 'padded_seed0.json').read_text())
    assert [(found['window'], found['scale']) for found in record['evaluations']] == [
        (window, scale) for window in ('whole map', 'padded', 'balanced', 'pretraining') for scale in (1, 2)]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| padded')]
    assert len(table) == 4


@pytest.mark.parametrize('arguments, message', [
    (['--seeds', '0'], '--seeds'), (['--config', 'no.py'], 'no.py'),
    (['--config', str(ROOT / 'configs' / 'dino_mambavision_t_1x.py')], facts('dino_mambavision_t_1x.py', '_base_')),
    (['--work-dir', __file__], facts(__file__, 'mixer', 'Not a directory'))])
def test_mistakes(tool, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(lambda: main(['--study', 'mixer', *arguments]))


@pytest.mark.parametrize('content', ['', '{"budget": 3', '[]', '{}'])
def test_a_damaged_record_is_named(tool, tmp_path, content):
    (tmp_path / 'a.json').write_text(content)
    with pytest.raises(SystemExit, match='a.json'):
        run(lambda: tool.finished(tmp_path, ['a.json', 'b.json'], ''))


def test_a_folder_that_cannot_be_written(tool, tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(30, 'Read-only file system', dir)
    monkeypatch.setattr('tempfile.TemporaryFile', refuse)  # root may write whatever the mode
    with pytest.raises(SystemExit, match=facts(tmp_path, 'Read-only file system')):
        run(lambda: tool.finished(tmp_path, [], ''))


def test_every_budget_has_data_of_its_own(tool, tmp_path):
    folders = [tool.draw_data(dict(train=train, val=1, size=32), tmp_path) for train in (1, 2, 1)]
    assert [len([*folder.glob('ade/images/training/*')]) for folder in folders] == [1, 2, 1]
    assert folders[0] == folders[2]


def test_data_that_another_run_draws_at_the_same_time_is_taken(tool, tmp_path, monkeypatch):
    runs = sys.modules[tool.draw_data.__module__]

    def other_is_first(command, **_):
        for folder in (tmp_path / 'size32_train1_val1', Path(command[2])):
            (folder / 'ade').mkdir(parents=True)

    monkeypatch.setattr(runs.subprocess, 'run', other_is_first)
    folder = tool.draw_data(dict(train=1, val=1, size=32), tmp_path)
    assert [folder] == [*tmp_path.iterdir()]


def test_classes_that_are_nowhere_have_no_iou(tool):
    mean = import_module('benchmarking.ablation_training').mean
    assert mean([math.nan, 2., 4.]) == 3 and math.isnan(mean([math.nan]))
    assert tool.as_text(dict(context=[math.nan, 2.]), 'context') == 'nan ± nan'


def test_every_study_can_be_named(tool):
    assert tuple(tool.STUDIES) == load_tool('benchmarks/ablation').STUDIES
