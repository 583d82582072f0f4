"""A data set in COCO's format: read, counted, and made as mmdet and pycocotools need it."""
import json
import random
import re
import unicodedata
from collections import Counter

import numpy as np

from ...errors import UserError, not_the_file
from .headers import check_files
from .masks import extent, fault, has_mask, is_few_points, is_number, whole_polygons
from .survey import Survey, first, spread

NEEDED = dict(images=('id', 'file_name', 'width', 'height'), annotations=('image_id', 'category_id', 'bbox'),
              categories=('id', 'name'))


def read(path):
    """A COCO json as a dict, as it is written.

    Raises:
        UserError: it cannot be read, or what mmdet needs is not in it; names the entry.
    """
    try:
        data = path.read_bytes()
        coco = json.loads(data)  # in UTF-8, with or without a byte-order mark, UTF-16 or UTF-32
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path} is not JSON, or damaged: {not_the_file(data) or error}') from None
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
    return coco


def is_plain(path):
    """Whether a json is in UTF-8 without a byte-order mark, the only encoding that pycocotools reads."""
    with path.open('rb') as file:
        return json.detect_encoding(file.read(4)) == 'utf-8'


def plain(coco):
    """The contents of a json without what tells readers apart: blanks in names, ids as texts in one list and as
    numbers in another, `iscrowd` as text, and the category that Roboflow adds as the others' parent.

    Returns:
        The contents, new where they differ, and the names of the parents left out.
    """
    categories = [dict(category, name=plain_name(category['name'])) for category in coco['categories']]
    ids = {key: {str(entry['id']): entry['id'] for entry in coco[part]}
           for key, part in (('image_id', 'images'), ('category_id', 'categories'))}
    known = {key: set(values.values()) for key, values in ids.items()}
    annotations = [
        annotation | {key: ids[key].get(str(annotation[key]), annotation[key]) for key in ids
                      if annotation[key] not in known[key]}
        | ({'iscrowd': int(annotation['iscrowd'])} if str(annotation.get('iscrowd')) in ('0', '1') else {})
        for annotation in coco['annotations']]
    used = {annotation['category_id'] for annotation in annotations}
    parents = [category for category in categories if category['id'] == 0 and 0 not in used and len(categories) > 1
               and all(other.get('supercategory') == category['name'] for other in categories if other is not category)]
    return dict(coco, categories=[category for category in categories if category not in parents],
                annotations=annotations), [parent['name'] for parent in parents]


def plain_name(name):
    """A name without what is not seen: blanks of any kind around it, or several for one, and two forms of accents."""
    return ' '.join(re.sub('[\u200b\ufeff]', '', unicodedata.normalize('NFC', name)).split())


def is_text(value):
    return isinstance(value, str)


def is_id(value):
    return isinstance(value, (int, str))


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
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -1) | (ends > limits + 1)  # to a pixel, as COCO's own are
    flat = (boxes[:, 2:] <= 0).any(1)
    thin = (boxes[:, 2:] < 1).any(1) & ~flat  # mmdet leaves these out, too
    beyond = (boxes[:, :2] >= limits).any(1) | (ends <= 0).any(1)  # of their images altogether
    ignored = np.array([bool(a.get('ignore')) for a in known], bool)
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
    faults = [fault(a.get('segmentation'), *map(int, sizes[a['image_id']])) for a in known]
    faulty = [f'that of the annotation {a.get("id")} has {reason}' for a, reason in zip(known, faults) if reason]
    few_points = sum(not reason and bool(a.get('segmentation')) and is_few_points(a['segmentation'])
                     for a, reason in zip(known, faults))
    extents = [None if reason else extent(a.get('segmentation')) for a, reason in zip(known, faults)]
    masked = np.array([place is not None for place in extents], bool)
    places = np.array([place for place in extents if place is not None], float).reshape(-1, 4)
    form = form_of(boxes, limits, masked, places)
    reaching = int(outside.any(1).sum())
    # Boxes of smaller images, or in other units: none reaches the right or the lower half of its image.
    cornered = len(boxes) >= 10 and not form and bool((ends < limits / 2).all())
    apart = 0 if form else int((overlap(boxes[masked], places) < .1)[~flat[masked]].sum())
    learnt = ~(flat | thin | beyond | crowds | ignored)

    rows = {
        'images': len(coco['images']), 'images without boxes': empty,
        'image width, min / median / max': spread([width for width, _ in sizes.values()]),
        'image height': spread([height for _, height in sizes.values()]),
        'boxes': len(coco['annotations']), 'boxes to learn from': int(learnt.sum()),
        'boxes with masks': sum(map(has_mask, coco['annotations'])),
        'crowds': sum(bool(a.get('iscrowd')) for a in coco['annotations']),
        'root of box area': spread(np.sqrt(boxes[:, 2:].clip(0).prod(1)).round(1).tolist()),
        'boxes out of bounds': reaching, 'boxes of no area': int(flat.sum()),
        'missing files': len(missing), 'duplicate image ids': len(twice), 'duplicate annotation ids': len(ids),
        'annotations of no image': len(lost),
    }
    problems = [
        (len(missing), f'of the {len(coco["images"])} images of {path} are not in {images}: {first(missing)}'),
        (len(unknown), f'annotations of {path} have a category_id that no category has: {first(sorted(set(unknown)))}'),
        (len(twice), f'image ids of {path} are given twice, so whose annotations are meant is not known: '
                     f'{first(twice)}'),
        (0 if learnt.any() else 'no', f'boxes in {path} to learn from or to compare with'),
        (len(boxes) if form else 0, f'boxes of {path} are {form}: COCO\'s format has x, y, width and height in pixels'),
        (reaching if learnt.any() and not form and reaching > len(boxes) / 2 else 0,
         f'of the {len(boxes)} boxes of {path} reach out of their images: they are in other units than pixels, or of '
         'images of another size'),
        (len(faulty), f'masks of {path} cannot be used: {first(faulty, 1)}'),
        (apart if apart > len(places) / 2 else 0, f'of the {len(places)} masks of {path} lie elsewhere than their '
                                                  'boxes: one of the two is in other units, or of another image'),
        *file_problems]
    oddities = [
        (empty, "images without boxes, which are trained on or not as the config's filter_cfg says"),
        (reaching, 'boxes that reach out of their images by more than a pixel'),
        (rows['boxes of no area'], 'boxes of no area, left out'),
        (int(thin.sum()), 'boxes less than a pixel wide or high, left out'),
        (int((beyond & ~flat).sum()), 'boxes outside of their images, left out'),
        (len(boxes) if cornered else 0, 'boxes that all lie in the upper left quarter of their images, as those '
                                        'in other units or of smaller images do'),
        (few_points, 'masks of fewer than three points, which are none'),
        (int(ignored.sum()), 'annotations marked with ignore, left out'),
        (int(crowds.sum()) if crowds.sum() > len(known) / 2 else 0, 'crowds (iscrowd), which are not learnt from'),
        (apart, 'masks that lie elsewhere than their boxes'),
        (len(lost), 'annotations that name an image that is not there, left out'),
        (len(ids), 'annotation ids that are given twice, numbered anew'), *file_oddities]
    return Survey(rows, Counter(names[a['category_id']] for a in known), 'boxes', problems, oddities)


def overlap(boxes, others):
    """Intersection over union [n] of boxes [n, 4] and others [n, 4], all x, y, width, height."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    both = (high - low).clip(0).prod(1)
    return both / (boxes[:, 2:].clip(0).prod(1) + others[:, 2:].prod(1) - both).clip(1e-9)


def form_of(boxes, limits, masked, places):
    """What boxes are in the place of x, y, width and height in pixels, in words; None where they seem right.

    Where boxes have masks, it is the reading that agrees with them. Else boxes that are all smaller than a pixel are
    fractions, and corners are seen by boxes that leave their images.

    Args:
        boxes: as they are written [n, 4].
        limits: width and height of the image of each [n, 2].
        masked: which of them have masks, bool [n].
        places: boxes around these masks, x, y, width, height.
    """
    size = np.tile(limits, 2)
    readings = {
        None: boxes,
        'corners x1, y1, x2, y2': np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
        'centres, widths and heights': np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)}
    for name, unit in (('fractions of their images, from 0 to 1', 1), ('percents of their images', 100),
                       ('thousandths of their images', 1000)):
        readings |= {f'{reading or "x, y, width and height"} as {name}': values * size / unit
                     for reading, values in list(readings.items())[:3]}
    if len(places):
        agreement = {name: np.median(overlap(values[masked], places)) for name, values in readings.items()}
        best = max(agreement, key=agreement.get)
        if agreement[None] < .5 < .7 < agreement[best]:
            return best
    if not len(boxes):
        return None
    flat = (boxes[:, 2:] <= 0).any(1)
    if ((boxes.max(1) <= 1) & ~flat).mean() > .5 and np.median(limits) > 2:
        return 'fractions of their images, from 0 to 1'
    # Read as corners nearly all boxes lie in their images, and as COCO's widths and heights many do not.
    outside = ((boxes[:, :2] < -1) | (boxes[:, :2] + boxes[:, 2:] > limits + 1)).any(1)
    corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all(1)
    return 'corners x1, y1, x2, y2' if outside.mean() > .1 and corners.mean() > .9 else None


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
        The contents to write, equal to the given ones where these are in that form.
    """
    ids = [annotation.get('id') for annotation in coco['annotations']]
    numbered = not repeated(ids) and all(isinstance(i, int) and i for i in ids)
    ordered = tuple(category['name'] for category in coco['categories']) == tuple(classes)
    names = {category['id']: category['name'] for category in coco['categories']}
    annotations = [
        dict(area=0, iscrowd=0) | {k: v for k, v in a.items() if v is not None} | whole_polygons(a)
        | ({} if ordered else dict(category_id=classes.index(names[a['category_id']]) + 1))
        for a in coco['annotations'] if names[a['category_id']] in classes]
    for number, annotation in enumerate(annotations, 1):
        if not (is_number(annotation['area']) and annotation['area'] > 0):
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        if not numbered:
            annotation['id'] = number
    if ordered:
        return dict(coco, annotations=annotations)
    return dict(coco, categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)], annotations=annotations)
