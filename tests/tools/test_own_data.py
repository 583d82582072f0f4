"""tools/train.py --data through the command that a user types, and docs/your_data.md as it is written."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..helpers.process import ROOT, error_of, run_tool

DETECTOR = 'configs/cascade_mask_rcnn_mambavision_demo.py'
NVIDIA = 'hf://nvidia'
SEGMENTOR = 'configs/upernet_mambavision_demo.py'
FEW = ['default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1', 'train_dataloader.batch_size=8',
       'train_cfg.val_interval=1']


def save_weights(path, config, classes):
    """A checkpoint of the config's model with random weights and so many classes."""
    cfg = Config.fromfile(ROOT / config)
    text = cfg.pretty_text.replace('num_classes=4', f'num_classes={classes}')
    model = Config.fromstring(text.replace('num_classes=5', f'num_classes={classes}'), '.py').model
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(model).state_dict(), meta=dict(mmengine_version='0.10.7')), path)


@pytest.fixture(scope='module')
def boxes(shapes, tmp_path_factory):
    """The drawn data as Roboflow exports it, without masks and with one class fewer."""
    folder = tmp_path_factory.mktemp('boxes')
    for split, word in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(shapes / 'coco' / f'{split}2017', folder / word)
        contents = json.loads((shapes / 'coco' / 'annotations' / f'instances_{split}2017.json').read_text())
        contents['categories'] = contents['categories'][:3]
        for annotation in contents['annotations']:
            del annotation['segmentation']
            annotation['category_id'] = min(annotation['category_id'], 3)
        (folder / word / '_annotations.coco.json').write_text(json.dumps(contents))
    return folder


def train(config, data, work_dir, *options):
    return run_tool('train.py', config, '--data', data, '--weights', work_dir.parent / 'weights.pth', '--work-dir',
                    work_dir, *options, '--cfg-options', *FEW,
                    f"train_cfg.max_{'epochs' if config == DETECTOR else 'iters'}=1")


@pytest.mark.slow
def test_a_detector_on_boxes(boxes, tmp_path):
    """Two iterations from the weights of another number of classes; then tools/test.py with what was written."""
    save_weights(tmp_path / 'weights.pth', DETECTOR, 80)
    work_dir = tmp_path / 'work_dir'
    output = train(DETECTOR, boxes, work_dir)
    count = len(json.loads((boxes / 'train' / '_annotations.coco.json').read_text())['annotations'])
    assert re.search(rf'│ boxes +│ +{count} │', output) and re.search(r'│ images +│ +16 │ +6 │', output)
    for said in (('without masks', 'mask_roi_extractor', 'mask_head', 'bbox'), ('num_classes', '3', '4', *(
            f'model.roi_head.bbox_head.{stage}' for stage in range(3))), ('left out', *(
                f'roi_head.bbox_head.{stage}.fc_cls.{kind}' for stage in range(3) for kind in ('bias', 'weight'))),
                 ('learning rate', '0.001', '2', '0.004', '8')):
        assert any(all(fact in line for fact in said) for line in output.splitlines()), said
    assert 'LR is set based on batch size of 2 and the current batch size is 8' in output
    assert 'size mismatch' not in output
    assert len(re.findall(r' loss: [\d.]+', output)) == 2 and 'segm_mAP' not in output
    assert cv2.imread(str(work_dir / 'samples.jpg')).std() > 10
    map_of = r'coco/bbox_mAP: ([-\d.]+)'
    tested = run_tool('test.py', work_dir / 'cascade_mask_rcnn_mambavision_demo.py', work_dir / 'epoch_1.pth',
                      cwd=tmp_path)
    assert re.search(map_of, tested)[1] == re.search(map_of, output)[1]


@pytest.mark.slow
def test_a_segmentor(shapes, tmp_path):
    """The same of a segmentor; and it goes on where it ended with all of its weights."""
    save_weights(tmp_path / 'weights.pth', SEGMENTOR, 150)
    work_dir = tmp_path / 'work_dir'
    output = train(SEGMENTOR, shapes / 'ade', work_dir)
    for said in (('num_classes', '6', '5', 'model.decode_head', 'model.auxiliary_head'), ('left out', *(
            f'{head}.conv_seg.{kind}' for head in ('auxiliary_head', 'decode_head') for kind in ('bias', 'weight')))):
        assert any(all(fact in line for fact in said) for line in output.splitlines()), said
    tested = run_tool('test.py', work_dir / 'upernet_mambavision_demo.py', work_dir / 'iter_1.pth')
    table = r'mIoU: ([\d.]+)  mAcc: ([\d.]+)'
    assert re.search(table, tested).groups() == re.search(table, output).groups()
    resumed = train(SEGMENTOR, shapes / 'ade', work_dir, '--resume')
    assert 'resumed epoch: 0, iter: 1' in resumed and 'conv_seg.weight' not in resumed


def test_errors_are_sentences(boxes, tmp_path):
    work_dir = ['--work-dir', tmp_path / 'work_dir']
    assert str(tmp_path / 'no') in error_of('train', ROOT / DETECTOR, '--data', tmp_path / 'no', *work_dir)
    assert '--val-json' in error_of(
        'train', ROOT / DETECTOR, '--train-json', boxes / 'train' / '_annotations.coco.json', *work_dir)
    assert 'no.pth' in error_of(
        'train', ROOT / DETECTOR, '--data', boxes, '--weights', 'no.pth', *work_dir)


def blocks():
    """(language, text) of the page's code."""
    return re.findall(r'```(shell|python)\n(.*?)```', (ROOT / 'docs' / 'your_data.md').read_text(), re.DOTALL)


@pytest.mark.full
def test_the_page_as_written(shapes, tmp_path):
    """Its commands, where the configs are the demo's with the schedules of those that the page names, the weights
    random ones and the runs shorter."""
    commands = [text for kind, text in blocks() if kind == 'shell' and 'predict.py' not in text]
    assert len(commands) == 4
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    smaller = {'=20 ': '=2 ', '=15,18': '=1,2', 'epoch_20': 'epoch_2', 'iters=8000': 'iters=2',
               '=1000': '=1'}
    for demo, name, weights, classes in (
            (DETECTOR, 'cascade_mask_rcnn_mambavision_t', f'{NVIDIA}/cascade_mask_rcnn_mamba_vision_tiny_3x_coco', 80),
            (SEGMENTOR, 'upernet_mambavision_s', f'{NVIDIA}/mamba_vision_160k_ade20k-512x512_small', 150)):
        cfg = Config.fromfile(ROOT / demo)
        cfg.param_scheduler = Config.fromfile(ROOT / 'configs' / f'{name}.py').param_scheduler
        if classes == 80:
            cfg.train_cfg.max_epochs = 1
        cfg.dump(tmp_path / 'configs' / f'{name}.py')
        save_weights(tmp_path / f'{name}.pth', demo, classes)
        smaller[weights] = str(tmp_path / f'{name}.pth')
    for command in commands:
        (tmp_path / 'FOLDER').unlink(missing_ok=True)
        (tmp_path / 'FOLDER').symlink_to(shapes / ('ade' if 'upernet' in command else 'coco'))
        for old, new in smaller.items():
            command = command.replace(old, new)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(['bash', '-ec', command], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env={**os.environ, 'PATH': path})
        assert done.returncode == 0, done.stdout[-3000:]
    assert len([*(tmp_path / 'work_dirs' / 'mine').rglob('pictures/*.jpg')]) == 6
    assert (tmp_path / 'work_dirs' / 'cascade_mask_rcnn_mambavision_t' / 'samples.jpg').is_file()


@pytest.mark.parametrize('kind', ['VOC', 'YOLO'])
def test_conversion_by_supervision(kind, boxes, tmp_path, monkeypatch):
    sv = pytest.importorskip('supervision')
    monkeypatch.chdir(tmp_path)
    for split, word in (('train', 'train'), ('val', 'valid')):
        data = sv.DetectionDataset.from_coco(str(boxes / word), str(boxes / word / '_annotations.coco.json'))
        if kind == 'VOC':
            data.as_pascal_voc(f'VOC/{split}/images', f'VOC/{split}/annotations')
        else:
            data.as_yolo(f'YOLO/{split}/images', f'YOLO/{split}/labels', 'YOLO/data.yaml')
    page = (ROOT / 'docs' / 'your_data.md').read_text()
    code = next(text for language, text in blocks() if language == 'python')
    if kind == 'YOLO':
        call = ' '.join(re.search(r'`(sv\.DetectionDataset\.from_yolo\(.*?\))` in', page, re.DOTALL)[1].split())
        code = re.sub(r'sv\.DetectionDataset\.from_pascal_voc\(.*\)', lambda _: call, code)
    exec(code, {})
    from mmmambavision.openmmlab.own_data import prepare
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.work_dir = str(tmp_path / 'work_dir')
    prepare(cfg, 'FOLDER')
    assert set(cfg.train_dataloader.dataset.metainfo.classes) == {'circle', 'triangle', 'rectangle'}
