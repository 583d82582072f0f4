"""A data set in COCO's format: read, counted, and made as mmdet and pycocotools need it."""
import json
import random
import re
from collections import Counter
from math import isfinite

import numpy as np

from ...errors import UserError
from .headers import check_files
from .survey import Survey, first, spread

NEEDED = dict(images=('id', 'file_name', 'width', 'height'), annotations=('image_id', 'category_id', 'bbox'),
              categories=('id', 'name'))


def read(path):
    """A COCO json as a dict.

    Raises:
        UserError: it cannot be read, or what mmdet needs is not in it; names the entry.
    """
    try:
        coco = json.loads(path.read_text(encoding='utf-8-sig'))  # with or without a byte-order mark
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path} is not JSON, or damaged: {error}') from None
    lists = coco if isinstance(coco, dict) else {}
    lacking = [part for part in NEEDED if not isinstance(lists.get(part), list)]
    if lacking:
        raise UserError(f"{path} is not in COCO's format: it has no list {' and no list '.join(lacking)}. "
                        'docs/your_data.md says how to convert from VOC and YOLO')
    for part, keys in NEEDED.items():
        for index, entry in enumerate(coco[part]):
            key = next((key for key in keys if not isinstance(entry, dict) or entry.get(key) is None), None)
            if key:
                raise UserError(f"{path}: {part}[{index}] has no {key}, which COCO's format wants")
    for index, annotation in enumerate(coco['annotations']):
        box = annotation['bbox']
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
            raise UserError(f'{path}: bbox of annotations[{index}] is {box}, not the four numbers x, y, width, height')
    for part, key, right, what in (
            ('images', 'id', is_id, 'a number or a string'), ('images', 'file_name', is_text, 'a string'),
            ('images', 'width', is_number, 'a number'), ('images', 'height', is_number, 'a number'),
            ('annotations', 'image_id', is_id, 'a number or a string'),
            ('annotations', 'category_id', is_id, 'a number or a string'),
            ('categories', 'id', is_id, 'a number or a string'), ('categories', 'name', is_text, 'a string')):
        for index, entry in enumerate(coco[part]):
            if not right(entry[key]):
                raise UserError(f'{path}: {key} of {part}[{index}] is {entry[key]!r}, not {what}')
    for category in coco['categories']:
        category['name'] = category['name'].strip()
    return coco


def is_number(value):
    return isinstance(value, (int, float)) and isfinite(value)


def is_text(value):
    return isinstance(value, str)


def is_id(value):
    return isinstance(value, (int, str))


def leave_out_parent(coco):
    """Take out the category 0 that Roboflow adds as the others' parent, which has no box; returns its name in a list,
    or an empty list."""
    used = {annotation['category_id'] for annotation in coco['annotations']}
    for category in coco['categories']:
        others = [other for other in coco['categories'] if other is not category]
        if category['id'] == 0 and 0 not in used and others and all(
                other.get('supercategory') == category['name'] for other in others):
            coco['categories'] = others
            return [category['name']]
    return []


def hold_out(coco, share, seed=0):
    """One data set as two, split by image at random, with every class that is in two images or more in both.

    Args:
        coco: the contents of a json.
        share: how much of the images is held out, between 0 and 1.
        seed: of the draw.

    Returns:
        {'train': contents, 'val': contents}

    Raises:
        UserError: the share is not between 0 and 1, or there are fewer than two images.
    """
    if not 0 < share < 1 or len(coco['images']) < 2:
        raise UserError('the share of images to hold out must be between 0 and 1, of two images at least; it is '
                        f'{share} of {len(coco["images"])}')
    order = sorted((image['id'] for image in coco['images']), key=str)
    random.Random(seed).shuffle(order)
    images_of = {}
    for annotation in coco['annotations']:
        images_of.setdefault(annotation['category_id'], set()).add(annotation['image_id'])
    held, count = set(), max(1, round(share * len(order)))

    def leaves_every_class(image):
        return all(len(images - held) > 1 for images in images_of.values() if image in images)

    for images in sorted(images_of.values(), key=len):  # of the rarest class first
        if not images & held:
            held.update([image for image in order if image in images and leaves_every_class(image)][:1])
    for image in order:
        if len(held) < count and image not in held and leaves_every_class(image):
            held.add(image)
    return {split: dict(coco, images=[i for i in coco['images'] if (i['id'] in held) == (split == 'val')],
                        annotations=[a for a in coco['annotations'] if (a['image_id'] in held) == (split == 'val')])
            for split in ('train', 'val')}


def base_name(file_name):
    """The last part of a path of any system, or of a URL."""
    return re.split(r'[\\/]', file_name.partition('?')[0] if '://' in file_name else file_name)[-1]


def classes_of(coco, path):
    """Names of the categories in order of their ids.

    Raises:
        UserError: there are none, or two have one id or one name.
    """
    # Ids that are strings are ordered apart from numbers, with which they do not compare.
    categories = sorted(coco['categories'], key=lambda category: (isinstance(category['id'], str), category['id']))
    for key in ('id', 'name'):
        counts = Counter(category[key] for category in categories)
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            raise UserError(f'{path}: two categories have the {key} {twice[0]!r}; give one of them another')
    if not categories:
        raise UserError(f'{path} has no categories: nothing to tell apart')
    return tuple(category['name'] for category in categories)


def survey(coco, path, images, **reading):
    """What is in one split, and what is wrong with it.

    Args:
        coco: the json's contents.
        path: its path, for messages.
        images: folder of its images.
        reading: how images are read, see `check_files`.
    """
    names = {category['id']: category['name'] for category in coco['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    known = [a for a in coco['annotations'] if a['category_id'] in names and a['image_id'] in sizes]
    boxes = np.array([a['bbox'] for a in known], float).reshape(-1, 4)
    limits = np.array([sizes[a['image_id']] for a in known], float).reshape(-1, 2)
    outside = (boxes[:, :2] < -1) | (boxes[:, :2] + boxes[:, 2:] > limits + 1)  # to a pixel, as COCO's own are
    flat = (boxes[:, 2:] <= 0).any(1)
    beyond = (boxes[:, :2] >= limits).any(1) | (boxes[:, :2] + boxes[:, 2:] <= 0).any(1)  # of their images altogether
    crowds = np.array([a.get('iscrowd') for a in known], bool)
    missing = [image['file_name'] for image in coco['images'] if not (images / image['file_name']).is_file()]
    unknown = [str(a['category_id']) for a in coco['annotations'] if a['category_id'] not in names]
    lost = [a['image_id'] for a in coco['annotations'] if a['image_id'] not in sizes]
    twice = repeated(image['id'] for image in coco['images'])
    ids = repeated(a['id'] for a in coco['annotations'] if 'id' in a)
    empty = len(sizes) - len({a['image_id'] for a in known})
    there = {image['file_name']: (image['width'], image['height']) for image in coco['images']}
    file_problems, file_oddities = check_files(
        {name: size for name, size in there.items() if name not in set(missing)}, images, path.name, **reading)
    fractions = len(boxes) and ((boxes.max(1) <= 1) & ~flat).mean() > .5 and np.median(limits) > 2
    # Read as corners all boxes lie in their images, and as COCO's widths and heights many do not.
    corners = len(boxes) and not fractions and outside.any(1).mean() > .1 and (
        (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all()

    rows = {
        'images': len(coco['images']), 'images without boxes': empty,
        'image width, min / median / max': spread([width for width, _ in sizes.values()]),
        'image height': spread([height for _, height in sizes.values()]),
        'boxes': len(coco['annotations']), 'boxes with masks': sum(map(has_mask, coco['annotations'])),
        'crowds': sum(bool(a.get('iscrowd')) for a in coco['annotations']),
        'root of box area': spread(np.sqrt(boxes[:, 2:].clip(0).prod(1)).round(1).tolist()),
        'boxes out of bounds': int(outside.any(1).sum()), 'boxes of no area': int(flat.sum()),
        'missing files': len(missing), 'duplicate image ids': len(twice), 'duplicate annotation ids': len(ids),
        'annotations of no image': len(lost),
    }
    problems = [
        (len(missing), f'of the {len(coco["images"])} images of {path} are not in {images}: {first(missing)}'),
        (len(unknown), f'annotations of {path} have a category_id that no category has: {first(sorted(set(unknown)))}'),
        (len(twice), f'image ids of {path} are given twice, so whose annotations are meant is not known: '
                     f'{first(twice)}'),
        ('no' if (flat | beyond | crowds).all() else 0, f'boxes in {path} to learn from or to compare with'),
        (len(boxes) if fractions else 0, f'boxes of {path} are fractions of their images, from 0 to 1: COCO\'s format '
                                         'has pixels'),
        (len(boxes) if corners else 0, f'boxes of {path} are corners x1, y1, x2, y2: COCO\'s format has x, y, width, '
                                       'height'), *file_problems]
    oddities = [
        (empty, "images without boxes, which are trained on or not as the config's filter_cfg says"),
        (rows['boxes out of bounds'], 'boxes that reach out of their images by more than a pixel'),
        (rows['boxes of no area'], 'boxes of no area, left out'),
        (len(lost), 'annotations that name an image that is not there, left out'),
        (len(ids), 'annotation ids that are given twice, numbered anew'), *file_oddities]
    return Survey(rows, Counter(names[a['category_id']] for a in known), 'boxes', problems, oddities)


def has_mask(annotation):
    mask = annotation.get('segmentation')
    return bool(mask) and (isinstance(mask, dict) or bool(polygons(mask)))


def has_run_lengths(coco):
    """Whether masks are run lengths, which mmdet keeps as pixels alone (crowds apart, which it leaves out)."""
    return any(isinstance(a.get('segmentation'), dict) and not a.get('iscrowd') for a in coco['annotations'])


def polygons(mask):
    """The polygons of a segmentation, each a flat list of coordinates of three points at least.

    Some tools write one polygon without the list around it, or points as pairs. pycocotools stops at polygons of fewer
    points when the first epoch is evaluated.
    """
    if not isinstance(mask, list):
        return []
    if mask and all(map(is_number, mask)) or mask and all(map(is_point, mask)):
        mask = [mask]
    flat = [[value for point in points for value in point] if isinstance(points, list) and points and all(
        map(is_point, points)) else points for points in mask]
    return [points for points in flat if isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
            and all(map(is_number, points))]


def is_point(value):
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def whole_polygons(annotation):
    """The annotation's segmentation in COCO's form, without the polygons that are none."""
    mask = annotation.get('segmentation')
    return {'segmentation': polygons(mask)} if isinstance(mask, list) else {}


def repeated(values):
    return [value for value, count in Counter(values).items() if count > 1]


def tidy(coco, classes):
    """The same annotations in the form that mmdet and pycocotools count on.

    mmdet numbers classes in the order of each file's categories, and needs area; pycocotools needs iscrowd, polygons of
    three points and ids that are numbers, differ and are not 0, which it takes for "no match".

    Args:
        coco: a json's contents, unchanged.
        classes: names in the order of their labels; annotations of others are left out.

    Returns:
        The contents to write, or None if the given ones are in that form.
    """
    ids = [annotation.get('id') for annotation in coco['annotations']]
    if tuple(category['name'] for category in coco['categories']) == tuple(classes) and not repeated(ids) and (
            all(isinstance(i, int) and i for i in ids)) and all(
                a.get('area') is not None and a.get('iscrowd') is not None and a.items() >= whole_polygons(a).items()
                for a in coco['annotations']):
        return None
    names = {category['id']: category['name'] for category in coco['categories']}
    annotations = [
        dict(area=a['bbox'][2] * a['bbox'][3], iscrowd=0) | {k: v for k, v in a.items() if v is not None} | dict(
            whole_polygons(a), category_id=classes.index(names[a['category_id']]) + 1)
        for a in coco['annotations'] if names[a['category_id']] in classes]
    return dict(coco, categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)],
                annotations=[dict(a, id=i) for i, a in enumerate(annotations, 1)])
