"""Counts against data drawn with known defects, every error, and what mmdet reads of the tidied copy."""
import json
import re

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope

from mmmambavision.openmmlab.own_data.coco import classes_of, hold_out, plain, read, tidy
from mmmambavision.openmmlab.own_data.coco_survey import survey

from ...helpers.data import coco_contents, write_split
from ...helpers.messages import facts

FAULTLESS = {'images without boxes': 0, 'crowds': 0, 'boxes out of bounds': 0, 'boxes of no area': 0,
             'missing files': 0, 'duplicate image ids': 0, 'duplicate annotation ids': 0, 'annotations of no image': 0}


def surveyed(folder, contents, missing=()):
    write_split(folder, contents, 'train.json', 'images')
    for name in missing:
        (folder / 'images' / name).unlink()
    return survey(plain(read(folder / 'train.json'))[0], folder / 'train.json', folder / 'images')


def test_faultless_data(folder):
    contents = coco_contents(3)
    contents['images'][0].update(width=100)
    found = surveyed(folder, contents)
    assert found.rows == {
        'images': 3, 'image width, min / median / max': '64 / 64 / 100', 'image height': '48 / 48 / 48', 'boxes': 6,
        'boxes to learn from': 6, 'boxes with masks': 6, 'root of box area': '14.1 / 14.1 / 14.1', **FAULTLESS}
    assert found.classes == dict(cat=3, dog=3) and not found.errors and not found.warnings


def test_defects_that_are_warned_of(folder):
    contents = coco_contents(6)
    boxes = contents['annotations']
    boxes[0]['bbox'] = [-3, 5, 10, 10]
    boxes[1]['bbox'] = [50, 40, 10, 10]      # two pixels below the image
    boxes[2]['bbox'] = [-.6, 0, 64.9, 48]    # within a pixel, as of polygons
    boxes[3]['bbox'] = [5, 5, 0, 10]
    for annotation in boxes[:4]:
        x, y, width, height = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    boxes[4]['id'] = boxes[5]['id']
    boxes[6]['iscrowd'] = 1
    boxes[7]['image_id'] = 77
    del boxes[8]['segmentation']
    boxes[9]['segmentation'] = []
    contents['annotations'] = boxes[:10]     # nothing on the sixth image
    found = surveyed(folder, contents)
    assert found.rows.items() >= {**FAULTLESS, 'boxes': 10, 'boxes with masks': 8, 'images without boxes': 1,
                                  'crowds': 1, 'boxes out of bounds': 2, 'boxes of no area': 1,
                                  'duplicate annotation ids': 1,
                                  'annotations of no image': 1}.items()
    assert found.classes == dict(cat=5, dog=4) and not found.errors
    said = [('filter_cfg', '1'), ('beyond', '2'), ('area', '1'), ('annotations', '1'), ('annotation ids', '1')]
    for warning, (about, number) in zip(found.warnings, said, strict=True):
        assert about in warning and warning.endswith(f': {number}')


@pytest.mark.parametrize('count, stops', [(1, False), (12, True)])
def test_masks_without_area(count, stops, folder):
    contents = coco_contents(6)
    for annotation in contents['annotations'][:count]:
        annotation['segmentation'] = dict(size=[48, 64], counts=[48 * 64])
    found = surveyed(folder, contents)
    assert any('area' in text for text in (found.errors if stops else found.warnings)) and bool(found.errors) == stops


def test_one_file_of_several_images_is_in_one_part():
    contents = coco_contents(6)
    for image in contents['images'][1:3]:
        image['file_name'] = contents['images'][0]['file_name']
    for seed in range(5):
        parts = hold_out(contents, .4, seed)
        names = [{image['file_name'] for image in part['images']} for part in parts.values()]
        assert not names[0] & names[1] and sum(len(part['images']) for part in parts.values()) == 6


def test_missing_files_are_counted_and_three_named(folder):
    found = surveyed(folder, coco_contents(6), missing=['1.png', '2.png', '4.png', '6.png'])
    assert found.rows['missing files'] == 4
    message, = found.errors
    assert re.search(facts('4 of the 6', folder / 'train.json', '1.png, 2.png, 4.png'), message)
    assert '6.png' not in message


def test_other_errors(folder):
    contents = coco_contents(2)
    contents['images'][1]['id'] = 1
    contents['annotations'][0]['category_id'] = 9
    found = surveyed(folder, contents)
    classes, ids = found.errors
    assert re.search(facts(folder / 'train.json', 'category_id', '9'), classes)
    assert re.search(facts(folder / 'train.json', 'image ids', 'twice'), ids) and ids.endswith(': 1')


@pytest.mark.parametrize('annotations', [[], [dict(image_id=1, category_id=1, bbox=[1, 1, 0, 0])],
                                         [dict(image_id=9, category_id=1, bbox=[1, 1, 5, 5])],
                                         [dict(image_id=1, category_id=1, bbox=[70, 1, 5, 5])],
                                         [dict(image_id=1, category_id=1, bbox=[1, 1, 5, 5], iscrowd=1)]])
def test_no_boxes_at_all(annotations, folder):
    found = surveyed(folder, coco_contents(2, annotations=annotations))
    error, = found.errors
    assert re.search(facts(folder / 'train.json', 'no boxes'), error)


@pytest.mark.parametrize('text, words', [
    ('{"images": [', ['JSON']),
    ('[]', ['images', 'annotations', 'categories']),
    ('{"images": [], "annotations": {}}', ['COCO', 'annotations', 'categories']),
    (json.dumps(coco_contents(images=[dict(id=1, file_name='x', width=3)])), ['images[0]', 'height']),
    (json.dumps(coco_contents(annotations=[dict(image_id=1, category_id=1)])), ['annotations[0]', 'bbox']),
    (json.dumps(coco_contents(annotations=[dict(image_id=1, category_id=1, bbox=[1, 2, 3])])), ['bbox', '[1, 2, 3]']),
    (json.dumps(coco_contents(annotations=[dict(image_id=1, category_id=1, bbox=[1, 2, 3, float('nan')])])),
     ['bbox', 'nan']),
    (json.dumps(coco_contents(categories=['cat'])), ['categories[0]', 'id']),
    (json.dumps(coco_contents(categories=[dict(id=1, name=5)])), ['name', 'categories[0]', '5']),
    (json.dumps(coco_contents(categories=[dict(id=[1], name='a')])), ['id', 'categories[0]', '[1]']),
    (json.dumps(coco_contents(images=[dict(id=1, file_name='x', width='64', height=2)])),
     ['images[0]', 'width', "'64'"]),
    (json.dumps(coco_contents(annotations=[dict(image_id=[1], category_id=1, bbox=[1, 2, 3, 4])])),
     ['image_id', '[1]'])])
def test_jsons_that_cannot_be_read(text, words, tmp_path):
    (tmp_path / 'x.json').write_text(text)
    with pytest.raises(ValueError, match=facts('x.json', *words)):
        read(tmp_path / 'x.json')
    with pytest.raises(ValueError, match=facts('nothing.json', 'No such file')):
        read(tmp_path / 'nothing.json')


def test_classes_go_by_their_ids():
    contents = coco_contents(categories=[dict(id=7, name='b'), dict(id=2, name='a')])
    assert classes_of(contents, 'x.json') == ('a', 'b')
    assert classes_of(coco_contents(categories=[dict(id='x', name='b'), dict(id=2, name='a')]), 'x.json') == ('a', 'b')
    for categories, message in (([dict(id=1, name='a'), dict(id=1, name='b')], 'id 1'),
                                ([dict(id=1, name='a'), dict(id=2, name='a')], "name 'a'"),
                                ([], 'no categories')):
        with pytest.raises(ValueError, match=message):
            classes_of(coco_contents(categories=categories), 'x.json')


def test_what_is_tidy_stays():
    assert tidy(coco_contents(), ('cat', 'dog')) == coco_contents()


@pytest.mark.parametrize('defect', [
    'order', 'other ids', 'area', 'iscrowd', 'null', 'no ids', 'id 0', 'ids of letters', 'ids twice', 'more classes',
    'points'])
def test_mmdet_reads_a_tidied_copy_right(defect, folder):
    contents = coco_contents(2, classes=('cat', 'dog', 'emu'))
    if defect == 'order':
        contents['categories'].reverse()
    if defect == 'other ids':
        for entry, key in [(c, 'id') for c in contents['categories']] + [(a, 'category_id') for a in
                                                                         contents['annotations']]:
            entry[key] = 10 - entry[key]
    for annotation in contents['annotations']:
        if defect in ('area', 'iscrowd'):
            del annotation[defect]
        if defect == 'null':
            annotation.update(area=None, iscrowd=None)
        if defect == 'points':
            annotation['segmentation'] += [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
        if defect == 'ids of letters':
            annotation['id'] = f"a{annotation['id']}"
        if defect == 'no ids':
            del annotation['id']
        if defect == 'id 0':
            annotation['id'] -= 1
        if defect == 'ids twice':
            annotation['id'] = 5
    if defect == 'more classes':
        contents['annotations'][0]['category_id'] = 3
    before = json.dumps(contents)
    classes = ('cat', 'dog')
    write_split(folder, tidy(contents, classes), 'train.json', 'images')
    assert json.dumps(contents) == before
    init_default_scope('mmdet')
    dataset = CocoDataset(ann_file=str(folder / 'train.json'), data_prefix=dict(img=str(folder / 'images')),
                          metainfo=dict(classes=classes))
    expected = [[('cat', 5.), ('dog', 25.)]] * 2
    if defect == 'more classes':
        expected = [[('dog', 25.)], expected[1]]
    assert [[(classes[box['bbox_label']], box['bbox'][0]) for box in dataset.get_data_info(i)['instances']]
            for i in range(2)] == expected
    written = json.loads((folder / 'train.json').read_text())['annotations']
    ids = [a['id'] for a in written]
    assert len(set(ids)) == len(written) and all(isinstance(i, int) and i > 0 for i in ids)
    assert np.all([a['area'] == 200 and a['iscrowd'] == 0 and len(a['segmentation']) == 1 for a in written])


def test_points_and_lines_are_no_masks(folder):
    contents = coco_contents(3)
    contents['annotations'][0]['segmentation'] = [[1, 2, 3, 4]]
    contents['annotations'][1]['segmentation'] = dict(size=[48, 64], counts=[1, 48 * 64 - 1])
    contents['annotations'][2]['segmentation'] = {}
    found = surveyed(folder, contents)
    assert found.rows['boxes with masks'] == 4 and not found.errors
    assert any('three points' in warning and warning.endswith(': 1') for warning in found.warnings)


@pytest.mark.parametrize('mask', [[5, 5, 15, 5, 15, 25, 5], [[5, 5, 15, 5, 15, 25, 5]], dict(size=[48, 64])])
def test_masks_that_are_damaged_are_not_taken_for_none(mask, folder):
    contents = coco_contents(3)
    for annotation in contents['annotations']:
        annotation['segmentation'] = mask
    assert any('masks' in error for error in surveyed(folder, contents).errors)


def test_boxes_of_images_of_another_size(folder):
    """Without masks, which would tell: of larger images most reach out, of smaller ones all lie in a corner."""
    contents = coco_contents(6)
    for annotation in contents['annotations']:
        del annotation['segmentation']
    boxes = [annotation['bbox'] for annotation in contents['annotations']]

    def scaled(factor):
        for annotation, box in zip(contents['annotations'], boxes):
            annotation['bbox'] = [factor * value for value in box]
        return surveyed(folder, contents)

    assert not scaled(1).warnings and not scaled(1).errors
    assert any('12 of the 12 boxes' in error for error in scaled(2.5).errors)
    warning, = scaled(.5).warnings
    assert 'quarter' in warning and warning.endswith(': 12')


@pytest.mark.parametrize('name', [
    'caf\u00e9 bar', 'cafe\u0301 bar', 'caf\u00e9  bar ', 'caf\u00e9\u00a0bar', '\ufeffcaf\u00e9\tbar'])
def test_names_that_look_alike_are_the_same(name):
    assert plain(coco_contents(classes=(name, 'b')))[0]['categories'][0]['name'] == 'caf\u00e9 bar'
