"""Read, split and normalize a data set in COCO format for mmdet and pycocotools."""
import json
import random
import re
import unicodedata
from collections import Counter

from ...errors import UserError, not_the_file
from .masks import is_number, whole_polygons

NEEDED = dict(images=('id', 'file_name', 'width', 'height'), annotations=('image_id', 'category_id', 'bbox'),
              categories=('id', 'name'))


def read(path):
    """Read a COCO json as a dict, without changes.

    Raises:
        UserError: the file cannot be read, or lacks a key that mmdet needs. The message names the entry.
    """
    try:
        data = path.read_bytes()
        coco = json.loads(data)  # accepts UTF-8 with or without a byte-order mark, UTF-16 and UTF-32
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path} is not JSON, or damaged: {not_the_file(data) or error}') from None
    lists = coco if isinstance(coco, dict) else {}
    lacking = [part for part in NEEDED if not isinstance(lists.get(part), list)]
    if lacking:
        raise UserError(f"{path} is not in COCO's format: it has no list {' and no list '.join(lacking)}. "
                        'See docs/your_data.md to convert from VOC or YOLO')
    for part, keys in NEEDED.items():
        for index, entry in enumerate(coco[part]):
            key = next((key for key in keys if not isinstance(entry, dict) or entry.get(key) is None), None)
            if key:
                raise UserError(f"{path}: {part}[{index}] has no {key}, which COCO's format requires")
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
    """Whether a json is UTF-8 without a byte-order mark. pycocotools reads no other encoding."""
    with path.open('rb') as file:
        return json.detect_encoding(file.read(4)) == 'utf-8'


def plain(coco):
    """Normalize the contents of a json, so that all tools read it the same way.

    Fixes extra spaces in names, ids that are strings in one list and numbers in another, and `iscrowd` as a string.
    Removes the parent category that Roboflow adds.

    Returns:
        The normalized contents (the input is not changed), and the names of the removed parent categories.
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
    """Normalize a name: strip and merge whitespace, remove invisible characters, use composed accents (NFC)."""
    return ' '.join(re.sub('[\u200b\ufeff]', '', unicodedata.normalize('NFC', name)).split())


def is_text(value):
    return isinstance(value, str)


def is_id(value):
    return isinstance(value, (int, str))


def hold_out(coco, share, seed=0):
    """Split a data set by image file at random. Every class that is in at least two files appears in both parts.

    Args:
        coco: the contents of a json.
        share: fraction of images to hold out, between 0 and 1.
        seed: random seed.

    Returns:
        {'train': contents, 'val': contents}

    Raises:
        UserError: the share is not between 0 and 1, or there are fewer than two images.
    """
    file_of = {image['id']: image['file_name'] for image in coco['images']}
    order = sorted(set(file_of.values()))
    if not 0 < share < 1 or len(order) < 2:
        raise UserError('the share of images to hold out must be between 0 and 1, and there must be at least two '
                        f'images. The share is {share} of {len(order)} images')
    random.Random(seed).shuffle(order)
    images_of = {}
    for annotation in coco['annotations']:
        if annotation['image_id'] in file_of:
            images_of.setdefault(annotation['category_id'], set()).add(file_of[annotation['image_id']])
    held, count = set(), max(1, round(share * len(order)))

    def leaves_every_class(image):
        return all(len(images - held) > 1 for images in images_of.values() if image in images)

    for images in sorted(images_of.values(), key=len):  # the rarest class first
        if not images & held:
            held.update([image for image in order if image in images and leaves_every_class(image)][:1])
    for image in order:
        if len(held) < count and image not in held and leaves_every_class(image):
            held.add(image)
    held_ids = {number for number, file in file_of.items() if file in held}
    return {split: dict(coco, images=[i for i in coco['images'] if (i['id'] in held_ids) == (split == 'val')],
                        annotations=[a for a in coco['annotations'] if (a['image_id'] in held_ids) == (split == 'val')])
            for split in ('train', 'val')}


def classes_of(coco, path):
    """Names of the categories, sorted by id.

    Raises:
        UserError: there are no categories, or two have the same id or name.
    """
    # Strings and numbers cannot be compared, so all numbers come first.
    categories = sorted(coco['categories'], key=lambda category: (isinstance(category['id'], str), category['id']))
    for key in ('id', 'name'):
        counts = Counter(category[key] for category in categories)
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            raise UserError(f'{path}: two categories have the {key} {twice[0]!r}. Change one of them')
    if not categories:
        raise UserError(f'{path} has no categories. Add at least one')
    return tuple(category['name'] for category in categories)


def repeated(values):
    return [value for value, count in Counter(values).items() if count > 1]


def tidy(coco, classes):
    """Convert annotations to the form that mmdet and pycocotools need.

    mmdet numbers classes in the order of each file's categories, and needs area. pycocotools needs iscrowd, polygons
    with at least three points, and unique integer ids. An id must not be 0, because 0 means "no match" there.

    Args:
        coco: a json's contents. They are not changed.
        classes: names in label order. Annotations of other classes are dropped.

    Returns:
        The contents to write, equal to the input if it has this form already.
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
