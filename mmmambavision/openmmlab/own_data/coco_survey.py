"""Check a data set in COCO format: count its contents and report its faults."""
from collections import Counter

import numpy as np

from .coco import repeated
from .headers import check_files
from .masks import extent, fault, has_mask, is_few_points
from .survey import Survey, first, spread


def survey(coco, path, images, **reading):
    """Count the contents of one split and report its faults.

    Args:
        coco: the json's contents.
        path: path of the json, for messages.
        images: folder of the images.
        reading: options of `check_files`.
    """
    names = {category['id']: category['name'] for category in coco['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    known = [a for a in coco['annotations'] if a['category_id'] in names and a['image_id'] in sizes]
    boxes = np.array([a['bbox'] for a in known], float).reshape(-1, 4)
    limits = np.array([sizes[a['image_id']] for a in known], float).reshape(-1, 2)
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -1) | (ends > limits + 1)  # tolerance of one pixel, as in COCO's own data
    flat = (boxes[:, 2:] <= 0).any(1)
    thin = (boxes[:, 2:] < 1).any(1) & ~flat  # mmdet drops these, too
    beyond = (boxes[:, :2] >= limits).any(1) | (ends <= 0).any(1)  # completely outside of their images
    fully_outside = beyond & ~flat
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
    faulty = [f'the mask of annotation {a.get("id")} has {reason}' for a, reason in zip(known, faults) if reason]
    few_points = sum(not reason and bool(a.get('segmentation')) and is_few_points(a['segmentation'])
                     for a, reason in zip(known, faults))
    extents = [None if reason else extent(a.get('segmentation')) for a, reason in zip(known, faults)]
    bare = sum(has_mask(a) and not reason and not empty_box and (place is None or place[2] * place[3] <= 0)
               for a, reason, empty_box, place in zip(known, faults, flat, extents))
    masked = np.array([place is not None for place in extents], bool)
    places = np.array([place for place in extents if place is not None], float).reshape(-1, 4)
    form = form_of(boxes, limits, masked, places)
    reaching = int(outside.any(1).sum())
    # No box reaches the right or lower half of its image: probably other units, or sizes of smaller images.
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
        (len(twice), f'image ids of {path} appear twice, so their annotations are ambiguous: {first(twice)}'),
        (0 if learnt.any() else 'no', f'boxes in {path} to learn from or to evaluate with'),
        (len(boxes) if form else 0, f'boxes of {path} are {form}: COCO\'s format has x, y, width and height in pixels'),
        (reaching if learnt.any() and not form and (
            reaching > len(boxes) / 2 or (len(boxes) >= 10 and fully_outside.mean() > .1)) else 0,
         f'of the {len(boxes)} boxes of {path} extend beyond their images: they are not in pixels, or the images have '
         'another size'),
        (len(faulty), f'masks of {path} cannot be used: {first(faulty, 1)}'),
        (bare if bare > sum(map(has_mask, known)) / 2 else 0, f'masks of {path} have no area'),
        (apart if apart > len(places) / 2 else 0, f'of the {len(places)} masks of {path} lie elsewhere in the image '
                                                  'than their boxes: check the units and the images of both'),
        *file_problems]
    oddities = [
        (empty, "images without boxes (filter_cfg of the config keeps or drops them)"),
        (reaching, 'boxes that extend beyond their images by more than a pixel'),
        (rows['boxes of no area'], 'boxes without area, left out'),
        (int(thin.sum()), 'boxes less than a pixel wide or high, left out'),
        (int(fully_outside.sum()), 'boxes completely outside their images, left out'),
        (len(boxes) if cornered else 0, 'boxes that all lie in the upper left quarter of their images: check their '
                                        'units and the image sizes'),
        (bare, 'masks without area'),
        (few_points, 'masks of fewer than three points, left out'),
        (int(ignored.sum()), 'annotations marked with ignore, left out'),
        (int(crowds.sum()) if crowds.sum() > len(known) / 2 else 0, 'crowds (iscrowd), not used for training'),
        (apart, 'masks that lie elsewhere in the image than their boxes'),
        (len(lost), 'annotations with an unknown image_id, left out'),
        (len(ids), 'duplicate annotation ids, replaced by new ids'), *file_oddities]
    return Survey(rows, Counter(names[a['category_id']] for a in known), 'boxes', problems, oddities)


def overlap(boxes, others):
    """Intersection over union [n] of boxes [n, 4] and others [n, 4], all x, y, width, height."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    both = (high - low).clip(0).prod(1)
    return both / (boxes[:, 2:].clip(0).prod(1) + others[:, 2:].prod(1) - both).clip(1e-9)


def form_of(boxes, limits, masked, places):
    """Detect boxes in a wrong format. Returns the name of the format, or None for x, y, width, height in pixels.

    If boxes have masks, the format that agrees with the masks wins. Otherwise, boxes smaller than a pixel are
    fractions, and boxes that leave their images are corners.

    Args:
        boxes: values in the file [n, 4].
        limits: image width and height for each box [n, 2].
        masked: which boxes have masks, bool [n].
        places: bounding boxes of these masks, x, y, width, height.
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
    # Corners: nearly all boxes lie inside their images as corners, but many do not as widths and heights.
    outside = ((boxes[:, :2] < -1) | (boxes[:, :2] + boxes[:, 2:] > limits + 1)).any(1)
    corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all(1)
    if len(boxes) >= 10 and boxes.max() <= 100 < limits.min() and corners.mean() > .9:
        return 'corners x1, y1, x2, y2 as percents of their images'
    return 'corners x1, y1, x2, y2' if outside.mean() > .1 and corners.mean() > .9 else None
