"""tools/predict.py with small models of random weights."""
import json
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools.coco import COCO

from mmmambavision.cli.export import main as export
from mmmambavision.cli.predict import main
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.predict.predictor import Predictor
from mmmambavision.openmmlab.predict.slices import predict_slices
from mmmambavision.recipes import released_recipe
from mmmambavision.terminal import run

from ..helpers.messages import facts
from ..helpers.process import ROOT

DETECTOR = str(ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py')
SEGMENTOR = str(ROOT / 'configs' / 'upernet_mambavision_demo.py')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for name, size in (('a.png', (70, 90, 3)), ('b.png', (64, 64, 3))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, size, np.uint8))
    return folder


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Weights by config, without classes in them."""
    folder, files = tmp_path_factory.mktemp('weights'), {}
    for config in (DETECTOR, SEGMENTOR):
        cfg = Config.fromfile(config)
        fit_to_machine(cfg)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        files[config] = str(folder / f'{cfg.default_scope}.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), files[config])
    return files


def predict(*arguments):
    run(lambda: main([str(argument) for argument in arguments]))


def test_detector(pictures, checkpoints, tmp_path, capsys):
    options = ['--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR]]
    predict(pictures, *options, '--threshold', 0, '--json', '--out', tmp_path / 'all')
    coco = COCO(str(tmp_path / 'all' / 'predictions.json'))
    assert [c['name'] for c in coco.cats.values()] == ['circle', 'triangle', 'rectangle', 'star']
    cfg = Config.fromfile(DETECTOR)
    fit_to_machine(cfg)
    from mmdet.apis import inference_detector, init_detector
    model = init_detector(cfg, checkpoints[DETECTOR], device='cpu')
    for image in coco.imgs.values():
        expected = inference_detector(model, str(pictures / image['file_name'])).pred_instances
        found = coco.loadAnns(coco.getAnnIds(imgIds=image['id']))
        assert len(found) == len(expected) > 0
        for annotation, box, score, label, mask in zip(
                found, expected.bboxes, expected.scores, expected.labels, expected.masks):
            x, y, width, height = annotation['bbox']
            assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), abs=1e-3)
            assert annotation['score'] == pytest.approx(score.item()) and annotation['category_id'] == label.item() + 1
            assert np.array_equal(coco.annToMask(annotation), mask.numpy())
            assert annotation['area'] == mask.sum()
        drawn, plain = (cv2.imread(str(folder / image['file_name'])) for folder in (tmp_path / 'all', pictures))
        assert drawn.shape == plain.shape and (drawn != plain).any()
    printed = capsys.readouterr().out
    assert '2 of 2' in printed and str(tmp_path / 'all') in printed
    scores = sorted(annotation['score'] for annotation in coco.anns.values())
    threshold = scores[len(scores) // 2]
    predict(pictures, *options, '--threshold', threshold, '--json', '--out', tmp_path / 'some')
    some = json.loads((tmp_path / 'some' / 'predictions.json').read_text())
    assert len(some['annotations']) == sum(score >= threshold - 1e-7 for score in scores) < len(scores)


def test_a_checkpoint_of_other_classes(pictures, checkpoints, tmp_path):
    checkpoint = torch.load(checkpoints[DETECTOR], weights_only=True)
    for name, value in checkpoint['state_dict'].items():
        if 'fc_cls' in name:
            checkpoint['state_dict'][name] = value[:2]
    torch.save(checkpoint, tmp_path / 'x.pth')
    with pytest.raises(SystemExit, match='roi_head.bbox_head.0.fc_cls.weight'):
        predict(pictures, '--config', DETECTOR, '--checkpoint', tmp_path / 'x.pth', '--out', tmp_path / 'out')


def test_nothing_found_leaves_the_picture(pictures, checkpoints, tmp_path):
    predict(pictures / 'a.png', '--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR], '--threshold', 1, '--out',
            tmp_path / 'none')
    assert np.array_equal(cv2.imread(str(tmp_path / 'none' / 'a.png')), cv2.imread(str(pictures / 'a.png')))


def test_segmentor(pictures, checkpoints, tmp_path):
    predict(pictures, '--config', SEGMENTOR, '--checkpoint', checkpoints[SEGMENTOR], '--json', '--out',
            tmp_path / 'out')
    cfg = Config.fromfile(SEGMENTOR)
    fit_to_machine(cfg)
    predictor = Predictor(cfg, checkpoints[SEGMENTOR], 'cpu', .3)
    assert predictor.classes[1:] == ('circle', 'triangle', 'rectangle', 'star')
    for name in ('a', 'b'):
        image = cv2.imread(str(pictures / f'{name}.png'))
        data = predictor.model.data_preprocessor(dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)]), False)
        with torch.no_grad():
            logits = predictor.model.encode_decode(data['inputs'], [dict(
                ori_shape=image.shape[:2], img_shape=image.shape[:2], pad_shape=data['inputs'].shape[2:],
                padding_size=[0, 0, 0, 0])])
        labels = cv2.imread(str(tmp_path / 'out' / 'labels' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        expected = logits[0, :, :image.shape[0], :image.shape[1]].argmax(0).numpy()
        assert labels.shape == image.shape[:2] and (labels == expected).mean() > .999


def test_slices(pictures, checkpoints, tmp_path):
    """a.png (90x70) has six slices; an image that fits into a slice is predicted whole."""
    pytest.importorskip('supervision')
    options = ['--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR], '--threshold', .2, '--json']
    predict(pictures / 'a.png', *options, '--slice', 48, '--overlap', .25, '--out', tmp_path / 'sliced')
    coco = COCO(str(tmp_path / 'sliced' / 'predictions.json'))
    cfg = Config.fromfile(DETECTOR)
    fit_to_machine(cfg)
    predictor = Predictor(cfg, checkpoints[DETECTOR], 'cpu', .2)
    image, shapes = cv2.imread(str(pictures / 'a.png')), []
    expected = predict_slices(lambda part: shapes.append(part.shape) or predictor(part), image, 48, .25).pred_instances
    assert shapes == [(48, 48, 3)] * 6 and len(coco.anns) == len(expected) > 16
    for annotation, score, mask in zip(coco.anns.values(), expected.scores, expected.masks):
        assert annotation['score'] == pytest.approx(score.item()) and np.array_equal(coco.annToMask(annotation), mask)
    drawn = cv2.imread(str(tmp_path / 'sliced' / 'a.png'))
    assert drawn.shape == image.shape and (drawn != image).any()
    for name, more in (('whole', ()), ('fits', ('--slice', 90))):
        predict(pictures / 'a.png', *options, *more, '--out', tmp_path / name)
    for name in ('predictions.json', 'a.png'):
        assert (tmp_path / 'fits' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


def test_slices_are_for_detectors(pictures, checkpoints, tmp_path):
    with pytest.raises(SystemExit, match='model.test_cfg.mode=slide'):
        predict(pictures, '--config', SEGMENTOR, '--checkpoint', checkpoints[SEGMENTOR], '--out', tmp_path / 'out',
                '--slice', 64)


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_an_image_of_one_pixel(config, checkpoints, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((1, 1, 3), 200, np.uint8))
    predict(tmp_path / 'x.png', '--config', config, '--checkpoint', checkpoints[config], '--out', tmp_path / 'out')
    assert cv2.imread(str(tmp_path / 'out' / 'x.png')).shape == (1, 1, 3)


@pytest.mark.parametrize('channels, colour', [(1, 'grayscale'), (4, 'unchanged')])
def test_images_of_other_channels(channels, colour, tmp_path):
    """Training, evaluation and prediction take the channels that the config's pipelines read; an export refuses."""
    config = tmp_path / 'mine.py'
    config.write_text(f"""_base_ = {DETECTOR!r}
model = dict(backbone=dict(in_channels={channels}),
             data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile', color_type='{colour}'), dict(type='Resize', scale_factor=1., keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
""")
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    checkpoint = tmp_path / 'x.pth'
    torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((64, 64, channels), 90, np.uint8))
    predict(tmp_path / 'a.png', '--config', config, '--checkpoint', checkpoint, '--out', tmp_path / 'out',
            '--threshold', 0)
    assert cv2.imread(str(tmp_path / 'out' / 'a.png')).shape == (64, 64, 3)
    with pytest.raises(UserError, match=facts('in_channels', channels, 'RGB')):
        export([str(config), str(checkpoint), '--out', str(tmp_path / 'x.onnx')])


def test_unreadable_inputs_are_counted(pictures, checkpoints, tmp_path, capsys):
    (tmp_path / 'bad.jpg').write_text('no image')
    with pytest.raises(SystemExit) as stopped:
        predict(tmp_path / 'bad.jpg', pictures / 'a.png', '--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR],
                '--out', tmp_path / 'out')
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert '1 of 2' in printed.out and 'bad.jpg' in ''.join(printed.err.split())  # lines may be broken in it
    assert (tmp_path / 'out' / 'a.png').exists()


def test_links_to_nowhere_and_folders_named_as_images(pictures, checkpoints, tmp_path, capsys):
    folder = tmp_path / 'in'
    (folder / 'folder.jpg').mkdir(parents=True)
    (folder / 'nowhere.jpg').symlink_to('gone.jpg')
    (folder / 'loop.jpg').symlink_to('loop.jpg')
    (folder / 'a.png').symlink_to(pictures / 'a.png')
    with pytest.raises(SystemExit):
        predict(folder, '--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR], '--json', '--out', tmp_path / 'o')
    assert '1 of 3' in capsys.readouterr().out
    assert len(json.loads((tmp_path / 'o' / 'predictions.json').read_text())['images']) == 1


@pytest.mark.parametrize('other', ['a.bmp', 'labels/a.png'])
def test_label_maps_are_not_overwritten(other, checkpoints, tmp_path):
    folder = tmp_path / 'in'
    (folder / 'labels').mkdir(parents=True)
    for name in ('a.png', other):
        cv2.imwrite(str(folder / name), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(SystemExit, match=str(tmp_path / 'out' / 'labels' / 'a.png')):
        predict(folder, '--config', SEGMENTOR, '--checkpoint', checkpoints[SEGMENTOR], '--json', '--out',
                tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_cannot_be_made(pictures, checkpoints, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match=facts(tmp_path / 'file' / 'x', 'Not a directory')):
        predict(pictures, '--config', DETECTOR, '--checkpoint', checkpoints[DETECTOR], '--out', tmp_path / 'file' / 'x')


@pytest.mark.parametrize('name, config', [
    ('hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco', 'cascade_mask_rcnn_mambavision_t.py'),
    ('hf://nvidia/cascade_mask_rcnn_mamba_vision_base_3x_coco/', 'cascade_mask_rcnn_mambavision_b.py'),
    ('hf://nvidia/mamba_vision_160k_ade20k-640x640_l3_21k', 'upernet_mambavision_l3.py')])
def test_config_of_a_released_checkpoint(name, config):
    assert released_recipe(name) == str(ROOT / 'configs' / config)


@pytest.mark.parametrize('arguments, message', [
    (['x.jpg', '--checkpoint', 'my.pth'], '--config'),
    (['x.jpg', '--checkpoint', 'hf://me/mine'], 'hf://nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco'),
    (['--checkpoint', 'x.pth'], '--web'), (['x.jpg', '--web', '--checkpoint', 'x.pth'], '--web'),
    (['x.jpg', '--threshold', '2', '--checkpoint', 'x.pth'], '--threshold 2'),
    (['x.jpg', '--slice', '0', '--checkpoint', 'x.pth'], '--slice 0'),
    (['x.jpg', '--slice', '64', '--overlap', '1', '--checkpoint', 'x.pth'], '--overlap 1'),
    (['x.jpg', '--slice', '64', '--overlap', '-0.1', '--checkpoint', 'x.pth'], '--overlap -0.1'),
    (['x.jpg', '--overlap', '0.2', '--checkpoint', 'x.pth'], '--slice'),
    (['no.jpg', '--config', DETECTOR, '--checkpoint', 'x.pth'], 'no.jpg')])
def test_mistakes(arguments, message):
    with pytest.raises(SystemExit, match=message):
        predict(*arguments)


def test_page(pictures, checkpoints, monkeypatch):
    """What the page is made of and what its function answers; gradio itself is stood in for."""
    from mmmambavision.openmmlab.predict import web
    gradio = types.ModuleType('gradio')
    made = {}
    gradio.Image = gradio.Slider = lambda *args, **options: (args, options)
    gradio.Interface = lambda predict, *args, **options: made.update(predict=predict) or types.SimpleNamespace(
        launch=lambda **options: options)
    monkeypatch.setitem(sys.modules, 'gradio', gradio)
    cfg = Config.fromfile(DETECTOR)
    fit_to_machine(cfg)
    predictor = Predictor(cfg, checkpoints[DETECTOR], 'cpu', .3)
    assert web.serve(predictor, server_port=7000) == dict(server_port=7000)
    image = cv2.imread(str(pictures / 'a.png'))
    drawn = made['predict'](image[..., ::-1], 0.)
    assert predictor.threshold == 0 and np.array_equal(drawn[..., ::-1], predictor.draw(image, predictor(image)))
    assert made['predict'](None, .5) is None
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(UserError, match='pip install gradio'):
        web.serve(predictor)
