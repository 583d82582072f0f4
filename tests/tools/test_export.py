"""tools/export.py as a user runs it."""
import pytest

from mmmambavision.terminal import run

from ..conftest import ROOT, load_tool
from .conftest import run_tool

DETECTOR = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py'


@pytest.mark.slow
@pytest.mark.parametrize('options', [['--part', 'neck', '--check'], ['--part', 'backbone', '--static', '--scan', 'scan',
                                                                       '--size', '96', '128', '--check']])
def test_export_and_check(options, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    printed = run_tool('export.py', DETECTOR, '--out', tmp_path / 'm.onnx', *options)
    assert f"{tmp_path / 'm.onnx'}: " in printed and (tmp_path / 'm.onnx').stat().st_size > 1e6
    sizes = ['96x128'] if '--static' in options else ['112x160', '320x224', '123x173', '256x384']
    assert all(size in printed for size in sizes) and 'error, at most 0.0001' in printed


@pytest.mark.parametrize('options, message', [
    (['--out', 'model.pt'], '--out model.pt must name a new file that ends in .onnx'),
    (['--out', 'x.onnx', '--opset', '12'], '--opset 12: operators of 18 to 23 are known here; TensorRT reads up to 20'),
    (['--out', 'x.onnx', '--size', '32', '64'], '--size 32 64: sides of 64 pixels at least'),
    (['--out', 'x.onnx'], 'whole models are exported of segmentors alone so far')])
def test_mistakes(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        run(lambda: load_tool('export').main([str(DETECTOR), *options]))


def test_a_file_that_fails_the_check(tmp_path, monkeypatch, capsys):
    tool = load_tool('export')
    monkeypatch.setattr(tool, 'export', lambda *arguments: (tmp_path / 'm.onnx').write_bytes(b''))
    monkeypatch.setattr(tool, 'read', lambda file: None)
    monkeypatch.setattr(tool, 'compare', lambda module, session, shape, scale: (
        1e-3 if shape[2] == 112 else 1e-6, 1, 1))
    with pytest.raises(SystemExit) as stopped:
        tool.main([str(DETECTOR), '--out', str(tmp_path / 'm.onnx'), '--part', 'neck', '--check'])
    assert stopped.value.code == 1 and '1.0e-03' in capsys.readouterr().out
