"""Counts against those of the published tables (multiply-adds in G, parameters in M)."""
from importlib import import_module

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmambavision.terminal import run

from ...helpers.process import ROOT, load_tool
from ...helpers.tiers import slow


def left_out(dim):
    """G of linear layers and attention products of the padding that the last blocks of released windows leave out.

    At 1280x800: projection and MLP (9 C^2) and both products of queries with all keys (2 C per key).
    """
    linear = attention = 0.
    for width, tokens, window in ((4 * dim, 50 * 80, 112), (8 * dim, 25 * 40, 56)):
        dropped = window ** 2 - tokens
        linear += 9 * width ** 2 * dropped / 1e9
        attention += 2 * width * window ** 2 * dropped / 1e9
    return linear, attention


@pytest.mark.parametrize('size, dim, params, released, whole_map', [
    ('t', 80, 89.20, (206.8, 428.0, 855), (91.0, 43.5, 740)),
    slow('s', 96, 107.48, (316.8, 392.8, 966), (152.7, 39.9, 802)),
    slow('b', 128, 154.89, (672.9, 845.9, 1323), (305.1, 86.0, 955))])
def test_detectors_as_counted_for_the_published_table(size, dim, params, released, whole_map):
    """The released code's counts, without what is known to reach no output."""
    linear, attention = left_out(dim)
    less = (released[0] - linear, released[1] - attention, released[2] - linear)
    for suffix, expected in (('', less), ('_wholemap', whole_map)):
        config = ROOT / 'configs' / f'cascade_mask_rcnn_mambavision_{size}{suffix}.py'
        row = import_module('benchmarking.complexity').measure(config)
        assert row['params'] == pytest.approx(params, abs=.005)
        assert (row['backbone'], row['backbone_attention'], row['total']) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize('name, params', [('t', 62.52), ('s', 81.79), ('b', 131.20), ('l3', 780.51)])
def test_segmentors(name, params):
    row = import_module('benchmarking.complexity').measure(ROOT / 'configs' / f'upernet_mambavision_{name}.py')
    assert row['params'] == pytest.approx(params, abs=.005)


@pytest.mark.slow
@pytest.mark.parametrize('name, sample', [
    ('dino_mambavision_t_1x', DetDataSample(metainfo=dict(batch_input_shape=(256, 256), img_shape=(256, 256)))),
    ('mask2former_mambavision_t', None)])
def test_transformers(name, sample):
    """Layers count as much as in the model as mmdet or mmseg runs it."""
    tool, config = import_module('benchmarking.complexity'), ROOT / 'configs' / f'{name}.py'
    row = tool.measure(config, (256, 256))
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    if sample:
        counts, _ = tool.count(lambda: model(torch.randn(1, 3, 256, 256), [sample], mode='tensor'))
    else:
        counts, _ = tool.count(lambda: model.encode_decode(torch.randn(1, 3, 256, 256), [dict(img_shape=(256, 256))]))
    assert row['total'] == pytest.approx(counts[0])
    assert row['params'] == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)


def test_scan_count():
    """(3 N + 2) multiply-adds per channel and step: 4 mixers at level 2 with 160 channels, 2 at level 3 with 320."""
    config = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_t_wholemap.py'
    row = import_module('benchmarking.complexity').measure(config, (512, 512))
    assert row['scan'] == pytest.approx((4 * 160 * 32 * 32 + 2 * 320 * 16 * 16) * 26 / 1e9)


def test_table_and_errors(capsys, tmp_path):
    tool = load_tool('benchmarks/complexity')
    tool.main([str(ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_t_wholemap.py'), '--markdown'])
    header, rule, row = capsys.readouterr().out.strip().splitlines()
    assert header.count('|') == rule.count('|') == row.count('|')
    assert '| 89.20 |' in row
    with pytest.raises(SystemExit, match='no.py'):
        run(lambda: tool.main([str(tmp_path / 'no.py')]))
