
import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ...helpers.process import run_tool


def test_both_layouts_agree(shapes):
    for coco_name, ade_name, count in (('train2017', 'training', 16), ('val2017', 'validation', 6)):
        coco = COCO(shapes / 'coco' / 'annotations' / f'instances_{coco_name}.json')
        assert len(coco.imgs) == count
        assert [c['name'] for c in coco.dataset['categories']] == ['circle', 'triangle', 'rectangle', 'star']
        for image in coco.imgs.values():
            picture = cv2.imread(str(shapes / 'coco' / coco_name / image['file_name']))
            assert picture.shape == (96, 96, 3) and picture.std() > 5
            labels = cv2.imread(str(next((shapes / 'ade' / 'annotations' / ade_name).glob(
                image['file_name'].replace('jpg', 'png')))), cv2.IMREAD_UNCHANGED)
            drawn = np.ones((96, 96), np.uint8)
            annotations = coco.loadAnns(coco.getAnnIds(image['id']))
            assert annotations
            for annotation in annotations:
                mask = coco.annToMask(annotation).astype(bool)
                drawn[mask] = annotation['category_id'] + 1
                y, x = np.nonzero(mask)
                box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
                np.testing.assert_allclose(annotation['bbox'], box, atol=.01)
            assert (drawn != labels).mean() < .005  # polygons have no holes


def test_run_lengths_are_exact_and_same_seed_same_data(shapes, tmp_path):
    run_tool('demo/make_shapes_dataset.py', tmp_path / 'rle', '--train', 3, '--val', 1, '--size', 96,
             '--segmentation', 'rle')
    coco = COCO(tmp_path / 'rle' / 'coco' / 'annotations' / 'instances_train2017.json')
    for image in coco.imgs.values():
        name = image['file_name']
        for file in (f'coco/train2017/{name}', f"ade/annotations/training/{name.replace('jpg', 'png')}"):
            assert (tmp_path / 'rle' / file).read_bytes() == (shapes / file).read_bytes()  # 16 images there, 3 here
        labels = cv2.imread(str(tmp_path / 'rle' / 'ade/annotations/training' / name.replace('jpg', 'png')), -1)
        drawn = np.ones_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation['area']
            drawn[mask == 1] = annotation['category_id'] + 1
        assert (drawn == labels).all()


def test_another_seed_draws_other_images(shapes, tmp_path):
    run_tool('demo/make_shapes_dataset.py', tmp_path / 'other', '--train', 1, '--val', 1, '--size', 96, '--seed', 1)
    file = 'coco/train2017/000000.jpg'
    assert (tmp_path / 'other' / file).read_bytes() != (shapes / file).read_bytes()


def test_a_marker_in_a_corner_decides_between_two_classes(tmp_path):
    run_tool('demo/make_shapes_dataset.py', tmp_path / 'c', '--task', 'context', '--train', 24, '--val', 1, '--size',
             96)
    folder = tmp_path / 'c' / 'ade'
    seen, corners = set(), set()
    for file in sorted((folder / 'annotations' / 'training').iterdir()):
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(folder / 'images' / 'training' / file.with_suffix('.jpg').name))
        spots = {(y, x): image[y - 2:y + 3, x - 2:x + 3].astype(int) for y in (12, 84) for x in (12, 84)}
        corner = max(spots, key=lambda at: abs(spots[at] - 127).min())  # the only place that is black or white
        assert abs(spots[corner] - 127).min() > 100
        dark = spots[corner].mean() < 127
        y, x = corner
        assert (labels[y - 5:y + 6, x - 5:x + 6] == (9 if dark else 8)).all()
        found = set(np.unique(labels))
        assert not found & ({4, 5, 8} if dark else {6, 7, 9})
        seen |= found
        corners.add(corner)
    assert seen == set(range(1, 10)) and len(corners) == 4
    coco = COCO(tmp_path / 'c' / 'coco' / 'annotations' / 'instances_train2017.json')
    assert [c['name'] for c in coco.dataset['categories']] == [
        'circle', 'triangle', 'rectangle (light)', 'star (light)', 'rectangle (dark)', 'star (dark)',
        'light marker', 'dark marker']


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    assert str(tmp_path) in run_tool('demo/make_shapes_dataset.py', tmp_path, status=1)
    assert [f.name for f in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize('options', [('--size', 16), ('--train', 0), ('--seed', -1)])
def test_options_out_of_range(tmp_path, options):
    *_, error = run_tool('demo/make_shapes_dataset.py', tmp_path / 'x', *options, status=2).splitlines()
    assert options[0] in error and '32' in error
