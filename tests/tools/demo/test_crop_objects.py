import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ...helpers.process import load_tool, run_tool


@pytest.mark.parametrize('box, corner', [((40, 30, 20, 10), (39, 24)), ((0, 0, 10, 20), (0, 0))])
def test_square_around_a_box(box, corner):
    """A tenth larger than the longer side, around the box's middle, and what of it the image has."""
    y, x = np.mgrid[:96, :96].astype(np.uint8)
    crop = load_tool('demo/crop_objects').square(np.stack([x, y, y], 2), box, 23)
    if corner == (39, 24):
        assert (crop[0, 0] == (39, 24, 24)).all() and (crop[-1, -1] == (61, 46, 46)).all()
    assert abs(int(crop[0, 0, 0]) - corner[0]) <= 1 and abs(int(crop[0, 0, 1]) - corner[1]) <= 1


def test_folders_of_objects(shapes, tmp_path):
    out = tmp_path / 'objects'
    printed = run_tool('demo/crop_objects.py', shapes / 'coco', out, '--size', 32)
    for split in ('train', 'val'):
        coco = COCO(str(shapes / 'coco' / 'annotations' / f'instances_{split}2017.json'))
        names = {c['id']: c['name'] for c in coco.dataset['categories']}
        wanted = {f"{names[a['category_id']]}/{a['id']:06d}.jpg" for a in coco.dataset['annotations']}
        assert {str(file.relative_to(out / split)) for file in (out / split).rglob('*.jpg')} == wanted
    assert str(len(wanted)) in printed and str(out) in printed
    annotation = coco.dataset['annotations'][0]
    crop = cv2.imread(str(out / 'val' / names[annotation['category_id']] / f"{annotation['id']:06d}.jpg"))
    assert crop.shape == (32, 32, 3)
    refused = run_tool('demo/crop_objects.py', shapes / 'coco', out, status=1)
    assert str(out) in refused


@pytest.mark.slow
def test_train_and_evaluate_a_classifier(shapes, tmp_path):
    """The demo's config through train.py, test.py and plot_curves.py."""
    pytest.importorskip('mmpretrain')
    run_tool('demo/crop_objects.py', shapes / 'coco', tmp_path / 'objects')
    config = 'configs/classification/mambavision_demo.py'
    options = ['--cfg-options', *(f'{loader}_dataloader.{key}' for loader in ('train', 'val', 'test') for key in (
        f'dataset.data_root={tmp_path}/objects', 'num_workers=0', 'persistent_workers=False'))]
    refused = run_tool('train.py', config, '--work-dir', tmp_path / 'no', '--cfg-options',
                       f'train_dataloader.dataset.data_root={tmp_path}/nothing', status=1)
    assert f'{tmp_path}/nothing/train' in refused
    run_tool('train.py', config, '--work-dir', tmp_path / 'run', *options, 'train_cfg.max_epochs=1')
    pictures = tmp_path / 'pictures'
    printed = run_tool('test.py', config, tmp_path / 'run' / 'epoch_1.pth', '--work-dir', tmp_path / 'test',
                       '--show-dir', pictures, *options)
    assert 'accuracy/top1' in printed
    assert len(list(pictures.glob('*.png'))) == len(list((tmp_path / 'objects' / 'val').rglob('*.jpg')))
    assert run_tool('plot_curves.py', tmp_path / 'run').strip().endswith('curves.png')
