"""tools/predict_onnx.py on small files whose outputs are known, beside mmdet, mmseg, mmcv, pycocotools and torch."""
import json
import re
import subprocess
import sys
import types

import cv2
import mmcv
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import FCNMaskHead, _do_paste_mask
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmseg.models.segmentors import EncoderDecoder
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmmambavision.export.contract import Contract

from ..helpers.messages import facts
from ..helpers.process import ROOT, load_tool

SCRIPT = ROOT / 'tools' / 'predict_onnx.py'
COLOURS = dict(classes=['red', 'green', 'blue'], palette=[[200, 0, 0], [0, 200, 0], [0, 0, 200]])
tool = load_tool('predict_onnx')


def save(path, nodes, outputs, meta, size=('h', 'w'), constants=()):
    """An ONNX file with a metadata of its own."""
    images = helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, *size])
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(nodes, 'graph', [images], outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in meta.items()})
    onnx.save(model, path)
    return path


def test_the_reader_knows_the_fields_of_the_contract():
    assert set(tool.KEYS) == set(Contract.__dataclass_fields__)


def detector(path, meta=None, **outputs):
    """A file that finds the same things in every image."""
    outputs = {name: np.asarray(value, np.int64 if name == 'labels' else np.float32) for name, value in outputs.items()}
    nodes = [helper.make_node('Constant', [], [name], value=numpy_helper.from_array(value))
             for name, value in outputs.items()]
    kinds = {name: TensorProto.INT64 if name == 'labels' else TensorProto.FLOAT for name in outputs}
    return save(path, nodes, kinds, dict(COLOURS, part='model', task='detection', resize=None) | (meta or {}))


def segmentor(path, weight, size=('h', 'w'), **meta):
    """A convolution of the image with a weight (classes, 3, k, k): zeros lie around the image."""
    nodes = [helper.make_node('Conv', ['images', 'weight'], ['logits'], pads=[weight.shape[-1] // 2] * 4)]
    meta = dict(COLOURS, part='model', task='segmentation', resize=None, align_corners=False) | meta
    return save(path, nodes, dict(logits=TensorProto.FLOAT), meta, size,
                [numpy_helper.from_array(weight.astype(np.float32), 'weight')])


def brightest(path, **meta):
    """A segmentor that gives each pixel its brightest colour's class."""
    return segmentor(path, np.eye(3)[..., None, None], **meta)


def predict(*arguments):
    """The exit status, or what was said instead of one."""
    with pytest.raises(SystemExit) as stopped:
        tool.main([str(argument) for argument in arguments])
    return stopped.value.code


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def picture(tmp_path):
    """A PNG of 6x9 pixels: three columns red, three green, three blue, in BGR."""
    image = np.zeros((6, 9, 3), np.uint8)
    for i in range(3):
        image[:, 3 * i:3 * i + 3, 2 - i] = 250
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    return tmp_path / 'x.png'


# The parts, each beside the one that it stands in for.

@pytest.mark.parametrize('density', [0, .001, .1, .5, .99, 1])
@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (5, 1), (30, 40), (300, 217)])
def test_run_lengths_are_those_of_pycocotools(shape, density):
    mask = np.random.default_rng(0).random(shape) < density
    for first in (False, True):
        mask[0, 0] = first
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert tool.encode(mask) == dict(size=expected['size'], counts=expected['counts'].decode())


def test_masks_are_pasted_as_mmdet_does():
    rng = np.random.default_rng(1)
    corners = rng.uniform((-9, -9), (90, 70), (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 80, (60, 2))], 1).astype(np.float32)
    boxes = np.concatenate([boxes, np.float32([[0, 0, 100, 80], [7, 5, 7, 30], [100, 80, 100, 80]])])
    for box in boxes:
        mask = rng.random((28, 28)).astype(np.float32)
        expected = np.zeros((80, 100), np.float32)
        pasted, place = _do_paste_mask(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], 80, 100)
        expected[place] = pasted[0].numpy()
        assert np.abs(tool.paste(mask, box, 80, 100) - expected).max() < 1e-4
    outside = np.float32([-30, -30, -20, -20]), np.float32([150, 10, 170, 40])  # which mmdet would not paste at all
    assert not any(tool.paste(mask, box, 80, 100).any() for box in outside)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('old, new', [
    ((13, 17), (40, 31)), ((40, 31), (13, 17)), ((8, 8), (8, 8)), ((1, 5), (9, 9)), ((5, 6), (1, 1))])
def test_logits_are_resized_as_torch_does(old, new, align_corners):
    logits = np.random.default_rng(2).normal(0, 5, (4, *old)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits)[None], new, mode='bilinear', align_corners=align_corners)[0]
    places = [tool.places(a, b, align_corners) for a, b in zip(new, old)]
    assert np.abs(tool.interpolate(logits, *places) - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize('size, resized', [((427, 640), (43, 64)), ((90, 64), (64, 46)), ((30, 40), (48, 64))])
def test_whole_masks_are_enlarged_as_mmdet_does(size, resized):
    """RTMDetInsHead's two interpolations, for an image padded to 64x64."""
    logits = np.random.default_rng(5).normal(0, 9, (8, 8)).astype(np.float32)
    factors = size[1] / resized[1], size[0] / resized[0]
    expected = F.interpolate(torch.from_numpy(logits)[None, None], scale_factor=8, mode='bilinear')
    ends = [int(np.ceil(64 * factor)) for factor in factors]
    expected = F.interpolate(expected, ends, mode='bilinear')[0, 0, :size[0], :size[1]].sigmoid().numpy()
    found = tool.enlarge(logits, 8, factors, *size)
    assert found.shape == size and np.abs(found[:len(expected), :len(expected[0])] - expected).max() < 1e-4
    assert not found[len(expected):].any() and not found[:, len(expected[0]):].any()


@pytest.mark.parametrize('size', [(50, 70), (90, 20), (80, 80)])
def test_images_are_padded_as_mmcv_does(size):
    image = np.random.default_rng(6).integers(0, 256, (*size, 3), np.uint8)
    padded = tool.pad(image, dict(size=[64, 80], value=[1, 2, 3]))
    assert np.array_equal(padded, mmcv.impad(image, shape=(80, 64), pad_val=(1, 2, 3)))
    assert tool.pad(image, None) is image


@pytest.mark.parametrize('size', [(480, 640), (640, 427), (33, 1000), (1, 1), (7, 300)])
def test_images_are_resized_as_mmcv_does(size):
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    for scale in ((1333, 800), (64, 48), (100, 2000)):
        expected = mmcv.imrescale(image, scale)
        assert np.array_equal(tool.resize(image, dict(scale=list(scale), keep_ratio=True)), expected)
        expected = mmcv.imresize(image, scale)
        assert np.array_equal(tool.resize(image, dict(scale=list(scale), keep_ratio=False)), expected)
    assert np.array_equal(tool.resize(image, None), image)


@pytest.mark.parametrize('size', [(50, 70), (20, 70), (20, 15), (32, 24), (33, 25)])
@pytest.mark.parametrize('divisor', [None, 16])
def test_windows_are_those_of_mmseg(size, divisor, tmp_path):
    rng = np.random.default_rng(4)
    weight, image = rng.normal(0, .1, (3, 3, 3, 3)).astype(np.float32), rng.integers(0, 256, (*size, 3), np.uint8)
    window, mean = dict(crop=[32, 24], stride=[20, 16]), [123.5, 116.25, 103.75]
    meta = dict(window=window, size_divisor=divisor, mean=mean)
    session, meta = tool.load(segmentor(tmp_path / 'x.onnx', weight, **meta), 'cpu')
    mean = torch.tensor(mean)[:, None, None]
    inputs = torch.from_numpy(image).permute(2, 0, 1).float()[None] - mean
    inputs = F.pad(inputs, (0, -size[1] % (divisor or 1), 0, -size[0] % (divisor or 1)))
    segmentor_of_mmseg = types.SimpleNamespace(
        test_cfg=types.SimpleNamespace(stride=window['stride'], crop_size=window['crop']), out_channels=3,
        encode_decode=lambda x, _: F.conv2d(x + mean, torch.from_numpy(weight), padding=1))
    expected = EncoderDecoder.slide_inference(segmentor_of_mmseg, inputs, [{}])[0, :, :size[0], :size[1]].numpy()
    found = tool.slide(session, meta, image)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-3


def test_colours_of_classes_without_a_palette_are_those_of_mmdet(tmp_path):
    _, meta = tool.load(brightest(tmp_path / 'x.onnx', palette=[]), 'cpu')
    assert np.array_equal(meta['colours'][:, ::-1], get_palette(None, 3))


# Detectors.

def test_detector_by_hand(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((50, 100, 3), 100, np.uint8))
    masks = np.zeros((4, 28, 28))
    masks[0], masks[1, :, :14], masks[2] = 1, 1, 1
    file = detector(
        tmp_path / 'x.onnx', dict(resize=dict(scale=[400, 200], keep_ratio=True), mask_threshold=.5), masks=masks,
        dets=[[40, 40, 120, 160, .9], [200, 40, 360, 200, .5], [0, 0, 8, 8, .2], [0, 0, 8, 8, .99]],
        labels=[2, 0, 1, -1])
    assert predict(file, tmp_path / 'x.png', '--json', '--out', tmp_path / 'out') == 0
    printed = capsys.readouterr()
    assert re.search(facts('1 of 1', tmp_path / 'out'), printed.out) and not printed.err
    coco = COCO(str(tmp_path / 'out' / 'predictions.json'))
    assert coco.imgs == {1: dict(id=1, file_name='x.png', height=50, width=100)}
    assert [(c['id'], c['name']) for c in coco.cats.values()] == [(1, 'red'), (2, 'green'), (3, 'blue')]
    first, second = coco.anns.values()  # the third is of a low score, the fourth none
    masks = [coco.annToMask(annotation) for annotation in (first, second)]
    for annotation in (first, second):
        del annotation['segmentation']
    assert first == dict(id=1, image_id=1, category_id=3, bbox=[10, 10, 20, 30], area=600, score=np.float32(.9),
                         iscrowd=0)
    assert second == dict(id=2, image_id=1, category_id=1, bbox=[50, 10, 40, 40], area=800, score=.5, iscrowd=0)
    expected = np.zeros((2, 50, 100))
    expected[0, 10:40, 10:30] = expected[1, 10:50, 50:70] = 1
    assert np.array_equal(masks, expected)
    drawn = read(tmp_path / 'out' / 'x.png').astype(int)
    assert drawn[35, 15].tolist() == [180, 20, 20] and drawn[45, 40].tolist() == [100] * 3
    assert drawn[40, 89, 2] > 150 > 50 > drawn[40, 89, 0]  # the red box's right side
    assert drawn[12:20, 12:30].min() < 30  # its label


def test_boxes_alone_and_none(tmp_path, picture):
    box = detector(tmp_path / 'a.onnx', dets=[[1, 1, 5, 4, .4]], labels=[1])
    assert predict(box, picture, '--json', '--out', tmp_path / 'a') == 0
    [annotation] = json.loads((tmp_path / 'a' / 'predictions.json').read_text())['annotations']
    assert annotation == dict(id=1, image_id=1, category_id=2, bbox=[1, 1, 4, 3], area=12, score=np.float32(.4),
                              iscrowd=0)
    assert predict(box, picture, '--json', '--out', tmp_path / 'b', '--threshold', .41) == 0
    assert json.loads((tmp_path / 'b' / 'predictions.json').read_text())['annotations'] == []
    assert np.array_equal(read(tmp_path / 'b' / 'x.png'), read(picture))
    assert predict(box, picture, '--out', tmp_path / 'c') == 0
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['x.png']


def test_boxes_and_masks_are_rescaled_as_mmdet_does(tmp_path):
    rng, head = np.random.default_rng(5), FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=3)
    cv2.imwrite(str(tmp_path / 'x.png'), rng.integers(0, 256, (90, 131, 3), np.uint8))
    corners = rng.uniform((0, 0), (180, 110), (30, 2))
    boxes = torch.tensor(np.concatenate([corners, corners + rng.uniform(5, 60, (30, 2))], 1), dtype=torch.float32)
    boxes[:, 2].clamp_(max=233), boxes[:, 3].clamp_(max=160)
    labels = torch.from_numpy(rng.integers(0, 3, 30))
    logits = torch.from_numpy(rng.normal(0, 3, (30, 3, 28, 28))).float()
    scores = np.sort(rng.random(30))[::-1]
    file = detector(tmp_path / 'x.onnx', dict(resize=dict(scale=[280, 160], keep_ratio=True), mask_threshold=.45),
                    dets=np.concatenate([boxes.numpy(), scores[:, None]], 1), labels=labels.numpy(),
                    masks=logits[range(30), labels].sigmoid().numpy())
    scale = dict(scale_factor=(233 / 131, 160 / 90), ori_shape=(90, 131))
    cfg = Config(dict(mask_thr_binary=.45))
    expected = head._predict_by_feat_single(logits, boxes, labels, scale, cfg, rescale=True)
    assert predict(file, tmp_path / 'x.png', '--json', '--out', tmp_path / 'out', '--threshold', 0) == 0
    coco = COCO(str(tmp_path / 'out' / 'predictions.json'))
    found = np.array([coco.annToMask(annotation) for annotation in coco.anns.values()])
    assert found.shape == (30, 90, 131) and (found != expected.numpy()).sum() <= 2  # within 1e-5 of the threshold
    for annotation, box in zip(coco.anns.values(), boxes.tolist()):  # which mmdet has rescaled in place
        x, y, width, height = annotation['bbox']
        assert [x, y, x + width, y + height] == pytest.approx(box, abs=1e-4)


# Segmentors.

def test_segmentor_by_hand(tmp_path, picture):
    file = brightest(tmp_path / 'x.onnx')
    assert predict(file, picture, '--json', '--out', tmp_path / 'out') == 0
    labels = read(tmp_path / 'out' / 'labels' / 'x.png')
    assert labels.dtype == np.uint8 and np.array_equal(labels, np.repeat([[0, 1, 2]], 6, 0).repeat(3, 1))
    assert json.loads((tmp_path / 'out' / 'predictions.json').read_text()) == dict(
        images=[dict(id=1, file_name='x.png', height=6, width=9, label_file='labels/x.png')],
        categories=[dict(id=i, name=name) for i, name in enumerate(COLOURS['classes'])])
    large = cv2.resize(read(picture), (270, 180), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / 'large.png'), large)
    assert predict(file, tmp_path / 'large.png', '--out', tmp_path / 'out') == 0
    drawn = read(tmp_path / 'out' / 'large.png')
    expected = (.2 * large + .8 * (large > 0) * 200).round().astype(np.uint8)
    assert (drawn == expected).all(2).mean() > .9 and (drawn != expected)[:100].any()  # all but the names


@pytest.mark.parametrize('align_corners', [False, True])
def test_segmentor_on_a_resized_image(align_corners, tmp_path):
    image = np.random.default_rng(6).integers(0, 256, (150, 97, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    weight = np.random.default_rng(7).normal(0, 1, (5, 3, 3, 3)).astype(np.float32)
    file = segmentor(tmp_path / 'x.onnx', weight, resize=dict(scale=[120, 60], keep_ratio=True),
                     align_corners=align_corners, classes=list('abcde'), palette=[[0, 0, 0]] * 5)
    assert predict(file, tmp_path / 'x.png', '--json', '--out', tmp_path / 'out') == 0
    resized = torch.from_numpy(mmcv.imrescale(image, (120, 60))[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    logits = F.interpolate(F.conv2d(resized, torch.from_numpy(weight), padding=1), (150, 97), mode='bilinear',
                           align_corners=align_corners)
    assert (read(tmp_path / 'out' / 'labels' / 'x.png') == logits[0].argmax(0).numpy()).mean() > .999


def test_one_logit_of_two_classes(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), np.arange(256, dtype=np.uint8)[None].repeat(3, 0))
    weight = np.full((1, 3, 1, 1), .001)
    file = segmentor(tmp_path / 'x.onnx', weight, classes=['no', 'yes'], palette=[[0, 0, 0]] * 2, binary_threshold=.6)
    assert predict(file, tmp_path / 'x.png', '--json', '--out', tmp_path / 'out') == 0
    expected = 1 / (1 + np.exp(-.003 * np.arange(256))) > .6
    labels = read(tmp_path / 'out' / 'labels' / 'x.png')
    assert 0 < expected.sum() < 256 and np.array_equal(labels, expected[None].repeat(3, 0))


def test_label_maps_of_many_classes(tmp_path, picture):
    weight = np.zeros((300, 3, 1, 1))
    weight[[7, 255, 299], [0, 1, 2]] = 1
    file = segmentor(tmp_path / 'x.onnx', weight, classes=[str(i) for i in range(300)], palette=[[1, 2, 3]] * 300)
    assert predict(file, picture, '--json', '--out', tmp_path / 'out') == 0
    labels = read(tmp_path / 'out' / 'labels' / 'x.png')
    assert labels.dtype == np.uint16 and labels[0, ::3].tolist() == [7, 255, 299]


def test_a_file_of_one_size(tmp_path, picture, capsys):
    cv2.imwrite(str(tmp_path / 'y.png'), np.zeros((7, 9, 3), np.uint8))
    file = brightest(tmp_path / 'x.onnx', size=(6, 9))
    assert predict(file, picture, tmp_path / 'y.png', '--json', '--out', tmp_path / 'out') == 1
    printed = capsys.readouterr()
    assert '1 of 2' in printed.out and re.search(facts(tmp_path / 'y.png', '6x9', '7x9', '--static'), printed.err)
    assert len(printed.err.splitlines()) == 1
    assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())['images']) == 1


def test_what_onnxruntime_cannot_do(tmp_path, picture, capsys):
    weight = numpy_helper.from_array(np.ones((3, 3, 9, 9), np.float32), 'weight')
    file = save(tmp_path / 'x.onnx', [helper.make_node('Conv', ['images', 'weight'], ['logits'])],
                dict(logits=TensorProto.FLOAT), dict(COLOURS, part='model', task='segmentation', resize=None,
                                                     align_corners=False), constants=[weight])
    assert predict(file, picture, '--out', tmp_path / 'out') == 1  # 9 rows of 6
    assert re.search(facts(picture, '6x9', '[ONNXRuntimeError]'), capsys.readouterr().err)


# Files of images.

def test_kinds_of_images(tmp_path):
    """Grey, with alpha, 16 bits, of one pixel, turned by EXIF, in folders: predicted as mmcv reads them."""
    folder, rng = tmp_path / 'im äges 写真', np.random.default_rng(8)
    (folder / 'b c').mkdir(parents=True)
    image = rng.integers(0, 256, (12, 16, 4), np.uint8)
    cv2.imwrite(str(folder / 'grey.png'), image[..., 0])
    cv2.imwrite(str(folder / 'b c' / 'älpha.png'), image)
    cv2.imwrite(str(folder / 'deep.PNG'), image.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / 'pixel.bmp'), image[:1, :1, :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image[..., :3]).save(folder / 'b c' / 'turned.JPG', exif=exif)
    (folder / 'notes.txt').touch()
    file = brightest(tmp_path / 'ö 1.onnx')
    assert predict(file, folder, '--json', '--out', tmp_path / 'ou t') == 0
    content = json.loads((tmp_path / 'ou t' / 'predictions.json').read_text())['images']
    assert {entry['file_name'] for entry in content} == {
        'grey.png', 'b c/älpha.png', 'deep.PNG', 'pixel.bmp', 'b c/turned.JPG'}
    for entry in content:
        image = mmcv.imread(str(folder / entry['file_name']))
        labels = read(tmp_path / 'ou t' / entry['label_file'])
        assert np.array_equal(labels, image[..., ::-1].argmax(2)) and image.shape[:2] == (
            entry['height'], entry['width'])
        assert read(tmp_path / 'ou t' / entry['file_name']).shape == image.shape
    assert next(entry for entry in content if 'turned' in entry['file_name'])['height'] == 16
    found = detector(tmp_path / 'd.onnx', dict(mask_threshold=.5), dets=[[0, 0, 1, 1, 1]], labels=[0],
                     masks=np.ones((1, 28, 28)))
    assert predict(found, folder / 'pixel.bmp', '--json', '--out', tmp_path / 'pixel') == 0
    assert json.loads((tmp_path / 'pixel' / 'predictions.json').read_text())['annotations'][0]['area'] == 1


def test_patterns_and_folders_name_each_image_once(tmp_path, picture):
    names = tool.find_images([str(tmp_path / '*.png'), str(picture), str(tmp_path)])
    assert [(path, str(name)) for path, name in names] == [(picture, 'x.png')]


def test_what_is_not_predicted_on_is_said(tmp_path, capsys):
    """Files of other names, and pages behind the first."""
    (tmp_path / 'in').mkdir()
    pages = [Image.new('RGB', (40, 30), colour) for colour in ('red', 'blue')]
    for name in ('a.gif', 'b.tif'):
        pages[0].save(tmp_path / 'in' / name, save_all=True, append_images=pages[1:])
    assert predict(brightest(tmp_path / 'x.onnx'), tmp_path / 'in', '--out', tmp_path / 'out') == 0
    passed_over, first_page = capsys.readouterr().err.splitlines()
    assert re.search(facts('1 files', 'a.gif'), passed_over) and re.search(facts('b.tif', '2 pages'), first_page)


def test_unreadable_images_are_counted(tmp_path, picture, capsys):
    folder = tmp_path / 'in'
    (folder / 'folder.jpg').mkdir(parents=True)
    (folder / 'bad.jpg').write_text('no image')
    (folder / 'empty.png').touch()
    (folder / 'nowhere.jpg').symlink_to('gone.jpg')
    (folder / 'x.png').symlink_to(picture)
    assert predict(brightest(tmp_path / 'x.onnx'), folder, '--json', '--out', tmp_path / 'out') == 1
    printed = capsys.readouterr()
    assert re.search(facts('1 of 4', tmp_path / 'out'), printed.out)
    for name, line in zip(('bad.jpg', 'empty.png', 'nowhere.jpg'), printed.err.splitlines(), strict=True):
        assert str(folder / name) in line
    assert len(json.loads((tmp_path / 'out' / 'predictions.json').read_text())['images']) == 1


def test_progress_on_a_terminal(tmp_path, picture, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    cv2.imwrite(str(tmp_path / 'y.png'), read(picture))
    assert predict(brightest(tmp_path / 'x.onnx'), picture, tmp_path / 'y.png', '--out', tmp_path / 'out') == 0
    assert capsys.readouterr().err == '\rpredicting 1/2\rpredicting 2/2\n'


def test_nothing_is_overwritten(tmp_path, picture):
    file, out = brightest(tmp_path / 'x.onnx'), tmp_path / 'out'
    assert predict(file, picture, '--out', out) == 0
    before = (out / 'x.png').read_bytes()
    message = f"error: not overwritten: {out / 'x.png'}; --out NEW_FOLDER writes elsewhere"
    assert predict(file, picture, '--out', out) == message and (out / 'x.png').read_bytes() == before
    cv2.imwrite(str(tmp_path / 'y.png'), read(picture))
    assert predict(file, tmp_path / 'y.png', '--json', '--out', out) == 0
    cv2.imwrite(str(tmp_path / 'z.png'), read(picture))
    assert predict(file, tmp_path / 'z.png', '--json', '--out', out) == (
        f"error: not overwritten: {out / 'predictions.json'}, {out / 'labels'}; --out NEW_FOLDER writes elsewhere")
    assert predict(file, picture, tmp_path / 'y.png', '--json', '--out', out) == (
        f"error: not overwritten: {out / 'x.png'}, {out / 'y.png'}, {out / 'labels' / 'y.png'} and others; --out "
        'NEW_FOLDER writes elsewhere')
    assert not (out / 'z.png').exists()


@pytest.mark.parametrize('first, second, options, target', [
    ('a/x.png', 'b/x.png', [], 'x.png'), ('a/x.png', 'a/x.bmp', ['--json'], 'labels/x.png')])
def test_two_inputs_of_one_name(first, second, options, target, tmp_path, picture):
    paths = [tmp_path / first, tmp_path / second]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), read(picture))
    out = tmp_path / 'out'
    message = predict(brightest(tmp_path / 'x.onnx'), *paths, *options, '--out', out)
    assert re.search(facts(*paths, out / target, '--out'), message)
    assert not out.exists()


# Mistakes.

@pytest.mark.parametrize('meta, word', [
    ({}, 'tools/export.py'), (dict(part='model', classes=['a'], palette=[]), 'tools/export.py'),
    (dict(part='model', task='detection', classes=['a']), 'tools/export.py'),
    (dict(part='model', task='x', classes=['a'], resize=None), 'tools/export.py'),
    (dict(part='backbone', classes=['a']), 'backbone'), (dict(part='neck'), 'neck')])
def test_files_of_other_kinds(meta, word, tmp_path, picture):
    node = helper.make_node('Identity', ['images'], ['logits'])
    file = save(tmp_path / 'x.onnx', [node], dict(logits=TensorProto.FLOAT), meta)
    assert re.search(facts('error: ', file, word), predict(file, picture, '--out', tmp_path / 'out'))


def test_metadata_of_others_is_left_alone(tmp_path, picture):
    """ONNX Runtime's quantisation writes words that are no JSON."""
    model = onnx.load(brightest(tmp_path / 'x.onnx'))
    model.metadata_props.add(key='onnx.infer', value='onnxruntime.quant')
    onnx.save(model, tmp_path / 'y.onnx')
    assert predict(tmp_path / 'y.onnx', picture, '--out', tmp_path / 'out') == 0


def test_mistakes(tmp_path, picture, monkeypatch):
    file, out = brightest(tmp_path / 'x.onnx'), tmp_path / 'out'
    (tmp_path / 'bad.onnx').write_text('no model')
    (tmp_path / 'empty').mkdir()
    endings = '.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp'
    for arguments, words in (
            ((tmp_path / 'no.onnx', picture), ['no.onnx', 'onnxruntime']),
            ((tmp_path / 'bad.onnx', picture), ['bad.onnx', 'onnxruntime']),
            ((file, tmp_path / 'no.png'), ['no.png', 'pattern']), ((file, tmp_path / 'empty'), ['empty', endings]),
            ((file, file), ['x.onnx', endings]), ((file, picture, '--threshold', 2), ['--threshold 2']),
            ((file, picture, '--device', 'cuda'), ['--device cuda', 'onnxruntime-gpu'])):
        code = predict(*arguments, '--out', out)
        assert code.startswith('error: ') and re.search(facts(*words), code), code
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file', tmp_path / 'file' / 'x'):
        reason = 'File exists' if out.exists() else 'Not a directory'
        assert re.search(facts('error: ', out / 'x.png', reason), predict(file, picture, '--out', out))


# A machine with nothing but numpy, onnxruntime and opencv.

HIDDEN = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'matplotlib', 'pycocotools', 'rich', 'PIL',
          'scipy', 'onnx', 'mmmambavision')


def run_alone(hidden, *arguments):
    """Run a copy of the script as a user would, where importing some packages fails."""
    program = f'''
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
'''
    return subprocess.run([sys.executable, '-c', program, *map(str, arguments)], capture_output=True, text=True)


def test_alone(tmp_path, picture):
    script = tmp_path / 'copied' / 'predict.py'
    script.parent.mkdir()
    script.write_text(SCRIPT.read_text())
    files = dict(
        d=detector(tmp_path / 'd.onnx', dict(mask_threshold=.5), dets=[[1, 1, 5, 5, .9]], labels=[0],
                   masks=np.ones((1, 28, 28))), s=brightest(tmp_path / 's.onnx'))
    for name, file in files.items():
        done = run_alone(HIDDEN, script, file, picture, '--json', '--out', tmp_path / name)
        assert (done.returncode, done.stderr) == (0, ''), done.stderr
        assert (tmp_path / name / 'x.png').exists() and (tmp_path / name / 'predictions.json').exists()
    assert (tmp_path / 's' / 'labels' / 'x.png').exists()
    done = run_alone(HIDDEN, script, files['d'], picture, '--out', tmp_path / 'd')
    assert done.returncode == 1 and re.search(facts('error: ', tmp_path / 'd' / 'x.png'), done.stderr)


@pytest.mark.parametrize('missing', ['numpy', 'cv2', 'onnxruntime'])
def test_what_is_missing_is_named(missing):
    done = run_alone((missing,), SCRIPT, 'x.onnx', 'x.png')
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert re.search(facts('error: ', missing, 'pip install numpy onnxruntime opencv-python-headless'), done.stderr)
