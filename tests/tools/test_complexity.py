"""Counts against those of the published tables (multiply-adds in G, parameters in M)."""
import pytest

from ..conftest import ROOT, load_tool


@pytest.mark.parametrize('name, params, backbone, attention, total', [
    ('cascade_mask_rcnn_mambavision_t', 89.20, 206.8, 428.0, 855), ('cascade_mask_rcnn_mambavision_t_native', 89.20, 91.0, 43.5, 740),
    ('cascade_mask_rcnn_mambavision_s', 107.48, 316.8, 392.8, 966), ('cascade_mask_rcnn_mambavision_s_native', 107.48, 152.7, 39.9, 802),
    ('cascade_mask_rcnn_mambavision_b', 154.89, 672.9, 845.9, 1323), ('cascade_mask_rcnn_mambavision_b_native', 154.89, 305.1, 86.0, 955),
])
def test_detectors_as_counted_for_the_published_table(name, params, backbone, attention, total):
    row = load_tool('complexity')[1].measure(ROOT / 'configs' / f'{name}.py')
    assert row['params'] == pytest.approx(params, abs=.005)
    assert row['backbone'] == pytest.approx(backbone, rel=2e-3)
    assert row['backbone_attention'] == pytest.approx(attention, rel=2e-3)
    assert row['total'] == pytest.approx(total, rel=2e-3)


@pytest.mark.parametrize('name, params', [('t', 62.52), ('s', 81.79), ('b', 131.20), ('l3', 780.51)])
def test_segmentors(name, params):
    row = load_tool('complexity')[1].measure(ROOT / 'configs' / f'upernet_mambavision_{name}.py')
    assert row['params'] == pytest.approx(params, abs=.005)


def test_scan_count():
    """(3 N + 2) multiply-adds a channel and step: 4 mixers at level 2 with 160 channels, 2 at level 3 with 320."""
    row = load_tool('complexity')[1].measure(ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_t_native.py', (512, 512))
    assert row['scan'] == pytest.approx((4 * 160 * 32 * 32 + 2 * 320 * 16 * 16) * 26 / 1e9)


def test_table_and_errors(capsys, tmp_path):
    common, tool = load_tool('complexity')
    tool.main([str(ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_t_native.py'), '--markdown'])
    header, rule, row = capsys.readouterr().out.strip().splitlines()
    assert header.count('|') == rule.count('|') == row.count('|')
    assert '| 89.20 |' in row
    with pytest.raises(SystemExit, match='config not found'):
        common.run(lambda: tool.main([str(tmp_path / 'no.py')]))
