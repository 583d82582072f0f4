"""Masks of a COCO json: polygons, run lengths, validity and bounding boxes."""
from math import isfinite

import numpy as np
from pycocotools import mask as coco_mask


def is_number(value):
    return isinstance(value, (int, float)) and isfinite(value)


def is_point(value):
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def has_mask(annotation):
    mask = annotation.get('segmentation')
    return bool(mask) and (isinstance(mask, dict) or bool(polygons(mask)))


def has_run_lengths(coco):
    """Whether masks are run lengths, which mmdet can only store as bitmaps. Crowds do not count, mmdet drops them."""
    return any(isinstance(a.get('segmentation'), dict) and not a.get('iscrowd') for a in coco['annotations'])


def polygons(mask):
    """The polygons of a segmentation with at least three points, each as a flat list of coordinates.

    Some tools write one polygon without an outer list, or points as pairs. pycocotools fails on polygons with fewer
    points, at the evaluation after the first epoch.
    """
    if not isinstance(mask, list):
        return []
    if (mask and all(map(is_number, mask))) or (mask and all(map(is_point, mask))):
        mask = [mask]
    flat = [[value for point in points for value in point] if isinstance(points, list) and points and all(
        map(is_point, points)) else points for points in mask]
    return [points for points in flat if isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
            and all(map(is_number, points))]


def whole_polygons(annotation):
    """The annotation's segmentation in COCO format, without invalid polygons."""
    mask = annotation.get('segmentation')
    return {'segmentation': polygons(mask)} if isinstance(mask, list) else {}


def fault(mask, width, height):
    """The fault of a segmentation for an image of this size, or None."""
    if not mask or (isinstance(mask, list) and (polygons(mask) or is_few_points(mask))):
        return None
    if not isinstance(mask, dict):
        return 'no form of COCO: neither lists of coordinates nor run lengths'
    size, counts = mask.get('size'), mask.get('counts')
    if not (isinstance(size, list) and list(map(int, filter(is_number, size))) == [height, width]):
        return f'run lengths for the size {size}, but the image height and width are [{height}, {width}]'
    try:
        if isinstance(counts, list) and sum(counts) != width * height:
            return 'run lengths that do not add up to the size of the image'
        coco_mask.decode(run_lengths(mask))
    except (TypeError, ValueError, AttributeError, KeyError):
        return 'run lengths that cannot be read'
    return None


def is_few_points(mask):
    """Whether a list has only points and lines, as some tools write for keypoints. It is no mask, but no fault."""
    if not isinstance(mask, list):
        return False
    parts = [mask] if all(map(is_number, mask)) else mask
    return all(is_point(part) or (isinstance(part, list) and len(part) < 6 and all(
        is_number(value) or is_point(value) for value in part)) for part in parts) and not polygons(mask)


def run_lengths(mask):
    """Run lengths in the form that pycocotools accepts."""
    if isinstance(mask['counts'], list):
        return coco_mask.frPyObjects(mask, *mask['size'])
    return mask


def extent(mask):
    """The bounding box [x, y, width, height] of a segmentation without `fault`, or None if it has no area."""
    if mask and isinstance(mask, dict):
        box = coco_mask.toBbox(run_lengths(mask)).tolist()
        return box if box[2] * box[3] > 0 else None
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in polygons(mask)] or [np.zeros((0, 2))])
    if not len(points):
        return None
    low, high = points.min(0), points.max(0)
    return [*low, *(high - low)]
