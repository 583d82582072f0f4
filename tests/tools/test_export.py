"""tools/export.py as a user runs it, and tools/test.py on its files."""
import json
import re
import sys

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmmambavision.cli.export import PARTS, main
from mmmambavision.cli.test import main as evaluate
from mmmambavision.cli.work import export as work
from mmmambavision.export import parts
from mmmambavision.terminal import run

from ..helpers.messages import facts
from ..helpers.process import ROOT, run_tool

DETECTOR = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py'


@pytest.mark.slow
@pytest.mark.parametrize('options', [['--part', 'neck', '--check'], ['--part', 'backbone', '--static', '--scan', 'scan',
                                                                       '--size', '96', '128', '--check']])
def test_export_and_check(options, tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    printed = run_tool('export.py', DETECTOR, '--out', tmp_path / 'm.onnx', *options)
    assert str(tmp_path / 'm.onnx') in printed
    maps = [[size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
            for value in onnx.load(tmp_path / 'm.onnx').graph.output]
    cfg = Config.fromfile(DETECTOR).model
    if '--static' in options:
        assert maps == [[1, cfg.backbone.arch.dim * 2 ** i, 96 // 4 // 2 ** i, 128 // 4 // 2 ** i]
                        for i in cfg.backbone.out_indices]
    else:
        assert [channels for _, channels, *_ in maps] == [cfg.neck.out_channels] * cfg.neck.num_outs
    sizes = ['96x128'] if '--static' in options else ['112x160', '320x224', '123x173', '256x384']
    assert all(size in printed for size in sizes) and 'maps' in printed and '0.0001' in printed


@pytest.mark.parametrize('options, message', [
    (['--out', 'model.pt'], facts('--out', 'model.pt', '.onnx')),
    (['--out', 'x.onnx', '--opset', '12'], facts('--opset 12', '18', '23', '20')),
    (['--out', 'x.onnx', '--size', '32', '64'], '--size 32 64'),
    (['--out', 'x.xml'], facts('--out', 'x.xml', '.onnx')),
    (['--out', 'old.xml', '--int8', 'images'], facts('--out', 'old.xml', 'new')),
    (['--out', 'x.onnx', '--int8', 'images', '--part', 'neck'], facts('--int8', '--part neck')),
    (['--out', 'x.onnx', '--int8', 'images', '--half'], facts('--int8', '--half')),
    (['--out', 'x.onnx', '--int8', 'images', '--check'], facts('--check', 'tools/test.py')),
    (['--out', 'x.onnx', '--cfg-options', 'model.test_cfg.rcnn.nms.type=soft_nms'], 'soft_nms')])
def test_mistakes(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'old.bin').touch()
    with pytest.raises(SystemExit, match=message):
        run(lambda: main([str(DETECTOR), *options]))


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(SystemExit, match='pip install nncf'):
        run(lambda: main([str(DETECTOR), '--out', str(tmp_path / 'x.onnx'), '--int8', str(tmp_path)]))


def draw(folder, count, plain=False):
    folder.mkdir()
    for number in range(count):
        image = Image.new('RGB', (40, 30), (number, 0, 0))
        if not plain:
            image.putpixel((0, 0), (255, 255, 255))
        image.save(folder / f'{number:03}.png')
    return folder


def test_calibration_images(tmp_path, monkeypatch, capsys):
    """Up to 300 images, taken evenly; a warning about few images, and about those that cannot be read."""
    pytest.importorskip('nncf')
    found = []
    monkeypatch.setattr(work, 'export', lambda *arguments: None)
    monkeypatch.setattr(work.calibration, 'Inputs', lambda file, sources, *others: sources)
    monkeypatch.setattr(work, 'quantise', lambda file, out, sources, contract: found.append((out, contract, sources)))

    def calibrate(folder):
        main([str(DETECTOR), '--out', str(tmp_path / 'x.onnx'), '--int8', str(folder)])
        return [source.path.stem for source in found[-1][2]], capsys.readouterr().out

    names, printed = calibrate(draw(tmp_path / 'many', 601))
    assert names == [f'{number:03}' for number in np.linspace(0, 600, 300).round().astype(int)]
    assert 'warning' not in printed and found[-1][:2] == (tmp_path / 'x.onnx', found[-1][1])
    assert found[-1][1].task == 'detection'
    few = draw(tmp_path / 'few', 3)
    (few / 'cut.png').write_bytes((few / '000.png').read_bytes()[:60])
    names, printed = calibrate(few)
    assert len(names) == 3 and re.search(facts('warning', few, '3 images'), printed)
    assert re.search(facts('skipped', 'cut.png'), printed)


@pytest.mark.parametrize('kind, message', [
    ('missing', 'no file or folder'), ('empty', 'no image'), ('video', 'no readable image'),
    ('broken', 'no readable image'), ('plain', 'only one colour')])
def test_bad_calibration_images(kind, message, tmp_path):
    pytest.importorskip('nncf')
    folder = tmp_path / 'images'
    if kind != 'missing':
        draw(folder, 12 if kind == 'plain' else 0, plain=True)
    if kind in ('video', 'broken'):
        (folder / dict(video='x.mp4', broken='x.png')[kind]).write_bytes(b'nothing')
    with pytest.raises(SystemExit, match=facts(folder, message)):
        run(lambda: main([str(DETECTOR), '--out', str(tmp_path / 'x.onnx'), '--int8', str(folder)]))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='m.onnx'):
        run(lambda: main([str(DETECTOR), '--out', str(tmp_path / 'file' / 'm.onnx')]))


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    file = tmp_path / 'new' / 'folder' / 'm.onnx'
    pretend(monkeypatch, file)
    main([str(DETECTOR), '--out', str(file), '--part', 'neck'])
    assert file.exists()


def pretend(monkeypatch, file, *errors):
    """tools/export.py without its export, its checks having the errors given."""
    found = iter(errors)
    monkeypatch.setattr(work, 'export', lambda *arguments: file.write_bytes(b''))
    monkeypatch.setattr(work, 'read', lambda file: None)
    monkeypatch.setattr(work, 'compare', lambda *arguments: (next(found), 1, 1, 5 if 'boxes' in errors[0] else None))


def test_a_file_that_fails_the_check(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, tmp_path / 'm.onnx', *(dict(maps=error) for error in (1e-6, 1e-6, 1e-3, 1e-6)))
    with pytest.raises(SystemExit) as stopped:
        main([str(DETECTOR), '--out', str(tmp_path / 'm.onnx'), '--part', 'neck', '--check'])
    assert stopped.value.code == 1 and '1.0e-03' in capsys.readouterr().out


@pytest.mark.parametrize('half, fails', [([], True), (['--half'], False)])
def test_limits_of_detectors(half, fails, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, tmp_path / 'm.onnx', *[dict(boxes=.3, scores=1e-5, masks=1e-5)] * 4)
    arguments = [str(DETECTOR), '--out', str(tmp_path / 'm.onnx'), '--check', *half]
    if fails:
        with pytest.raises(SystemExit):
            main(arguments)
    else:
        main(arguments)
    printed = capsys.readouterr().out
    assert re.search(rf"\bboxes\b.*\b{'1' if half else '0.001'} ", printed) and 'detections' in printed


@pytest.mark.parametrize('count, warned', [(-1, True), (3839, False), (3840, True)])
def test_limit_of_tensorrt(count, warned, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, tmp_path / 'm.onnx')
    key = 'model.test_cfg.rpn.nms_pre'
    main([str(DETECTOR), '--out', str(tmp_path / 'm.onnx'), '--cfg-options', f'{key}={count}'])
    said = bool(re.search(facts(key, count, 'TensorRT', '3840', f'--cfg-options {key}='), capsys.readouterr().out))
    assert said == warned


def test_a_pipeline_that_predict_onnx_does_not_have(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, tmp_path / 'm.onnx')
    config = tmp_path / 'config.py'
    steps = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=(9, 9)), dict(type='PackDetInputs')]
    config.write_text(f'_base_ = {str(DETECTOR)!r}\ntest_dataloader = dict(dataset=dict(pipeline={steps}))')
    main([str(config), '--out', str(tmp_path / 'm.onnx')])
    assert 'pipeline' in capsys.readouterr().out


@pytest.mark.parametrize('meta, options, message', [
    (dict(part='neck'), [], facts('m.onnx', 'neck', 'detection')),
    (dict(part='model', task='segmentation'), [], facts('m.onnx', 'segmentation', 'detection')),
    ({}, [], facts('m.onnx', 'detection')),
    (None, [], facts('m.onnx', 'ONNX Runtime')),
    ({}, ['--tta'], '--tta'),
    ({}, ['--amp'], '--amp')])
def test_files_that_are_not_evaluated(meta, options, message, shapes, tmp_path):
    onnx = pytest.importorskip('onnx')
    file = tmp_path / 'm.onnx'
    if meta is None:
        file.write_bytes(b'nothing')
    else:
        node = onnx.helper.make_node('Identity', ['images'], ['y'])
        values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ('images', 'y')]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], 'g', values[:1], values[1:]), ir_version=10,
                                       opset_imports=[onnx.helper.make_opsetid('', 20)])
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in meta.items()})
        onnx.save(model, file)
    data = [f'test_dataloader.dataset.data_root={shapes}/coco/',
            f'test_evaluator.ann_file={shapes}/coco/annotations/instances_val2017.json']
    with pytest.raises(SystemExit, match=message):
        run(lambda: evaluate([
            str(DETECTOR), str(file), '--work-dir', str(tmp_path / 'run'), *options, '--cfg-options', *data]))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match='x.onnx'):
        run(lambda: evaluate([str(DETECTOR), str(tmp_path / 'x.onnx')]))


def test_every_part_can_be_named():
    assert tuple(parts.PARTS) == PARTS
