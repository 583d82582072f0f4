"""Overlaps and greedy suppression of boxes on a CPU, compiled by numba at first use.

Scalars (thresholds, sigma) have the type of the boxes, because mmcv compares in that type.
"""
import math

import numpy as np
from numba import njit

from ...ops.compiled import jit_options

compiled = njit(**jit_options())


@compiled
def overlap(a, b, offset):
    """Intersection over union of boxes (x1, y1, x2, y2); NaN for two boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    zero = offset - offset  # a plain 0 would make the result float64
    shared = max(width, zero) * max(height, zero)
    area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    return shared / (area_a + area_b - shared)


@compiled
def soft_nms(boxes, index, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (arXiv 1704.04503) in place. Method 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian.

    Args:
        boxes: (N, 5), with scores; afterwards the K remaining boxes come first.
        index: (N,), moved like the boxes.

    Returns:
        K.
    """
    left, i = len(boxes), 0
    while i < left:
        best = i
        for j in range(i + 1, left):
            if boxes[j, 4] > boxes[best, 4]:  # false for NaN, as in mmcv
                best = j
        for k in range(5):
            boxes[i, k], boxes[best, k] = boxes[best, k], boxes[i, k]
        index[i], index[best] = index[best], index[i]
        j = i + 1
        while j < left:
            iou = overlap(boxes[i], boxes[j], offset)
            if method == 2:
                boxes[j, 4] *= math.exp(-iou * iou / sigma)
            elif iou >= iou_threshold:
                boxes[j, 4] *= method - method * iou
            if boxes[j, 4] < min_score:
                # The last box fills the gap, as in mmcv. This determines the order of equal scores.
                left -= 1
                boxes[j] = boxes[left]
                index[j] = index[left]
            else:
                j += 1
        i += 1
    return left


@compiled
def nms_match(boxes, order, iou_threshold):
    """The box that suppresses each box of (N, 4), or the box itself if it is kept -> (N,). `order` is by score."""
    by = np.full(len(boxes), -1)
    for first in range(len(order)):
        i = order[first]
        if by[i] < 0:
            by[i] = i
            for j in order[first + 1:]:
                if by[j] < 0 and overlap(boxes[i], boxes[j], boxes.dtype.type(0)) >= iou_threshold:
                    by[j] = i
    return by


@compiled
def nms_polygons(boxes, order, iou_threshold, has_labels):
    """Greedy suppression of rotated boxes (N, 5) or quadrilaterals (N, 8), with labels in one more column.

    Returns:
        The kept indices in the given order.
    """
    suppressed = np.zeros(len(boxes), np.bool_)
    kept = np.empty(len(boxes), np.int64)
    number, size = 0, boxes.shape[1] - has_labels
    for first in range(len(order)):
        i = order[first]
        if suppressed[i]:
            continue
        kept[number] = i
        number += 1
        for j in order[first + 1:]:
            if suppressed[j] or (has_labels and boxes[i, size] != boxes[j, size]):
                continue
            iou = quadri_iou(boxes[i], boxes[j], False) if size == 8 else rotated_iou(boxes[i], boxes[j])
            suppressed[j] = iou >= iou_threshold
    return kept[:number]


@compiled
def rotated_iou(a, b):
    """Intersection over union of boxes (x, y, width, height, radians), as `rotated_boxes.rotated_intersection`."""
    area_a, area_b = a[2] * a[3], b[2] * b[3]
    if area_a < 1e-14 or area_b < 1e-14:
        return 0.
    across, down = a[0] - b[0], a[1] - b[1]
    reach = math.hypot(a[2], a[3]) + math.hypot(b[2], b[3])
    if 4 * (across * across + down * down) > reach * reach:
        return 0.
    # Corners of a in coordinates of b, whose corner is the origin.
    cos, sin = math.cos(b[4]), math.sin(b[4])
    x, y = cos * across + sin * down + b[2] / 2, cos * down - sin * across + b[3] / 2
    cos, sin = math.cos(a[4] - b[4]) / 2, math.sin(a[4] - b[4]) / 2
    width_x, width_y, height_x, height_y = cos * a[2], sin * a[2], -sin * a[3], cos * a[3]
    shared = 0.
    x0, y0 = x + width_x - height_x, y + width_y - height_y
    for corner in range(4):
        side, end = (1 if corner in (0, 3) else -1), (1 if corner < 2 else -1)
        x1, y1 = x + side * width_x + end * height_x, y + side * width_y + end * height_y
        shared += area_under(x0, y0, x1, y1, b[2], b[3])
        x0, y0 = x1, y1
    return max(shared, 0.) / (area_a + area_b - max(shared, 0.))


@compiled
def area_under(x0, y0, x1, y1, width, height):
    """The integral of clamp(x, 0, width) dy along the part of an edge with 0 < y < height."""
    start, end = min(max(y0, 0.), height), min(max(y1, 0.), height)
    if start == end:
        return 0.
    slope = (x1 - x0) / (y1 - y0)
    x0, x1 = x0 + (start - y0) * slope, x0 + (end - y0) * slope
    a, b = min(max(x0, 0.), width), min(max(x1, 0.), width)
    if x0 == x1:
        return a * (end - start)
    beyond = max(x1 - width, 0.) - max(x0 - width, 0.)
    return ((b - a) * (a + b) / 2 + beyond * width) / (x1 - x0) * (end - start)


@compiled
def quadri_ious(first, last, boxes1, boxes2, foreground, aligned, ious):
    """Write rows `first` to `last` of the overlaps: (N,) if aligned, else (N M,)."""
    for i in range(first, last):
        if aligned:
            ious[i] = quadri_iou(boxes1[i], boxes2[i], foreground)
        else:
            for j in range(len(boxes2)):
                ious[i * len(boxes2) + j] = quadri_iou(boxes1[i], boxes2[j], foreground)


@compiled
def quadri_iou(a, b, foreground):
    """Intersection over union (or over the area of a) of quadrilaterals (x1, y1, ..., x4, y4).

    As in mmcv, a corner counts as inside if its projections on two sides are. This holds for rectangles.
    """
    p, q = np.empty((4, 2)), np.empty((4, 2))
    for k in range(8):  # around the common centre, where differences are exact
        centre = 0.
        for corner in range(4):
            centre += (a[2 * corner + k % 2] + b[2 * corner + k % 2]) / 8
        p[k // 2, k % 2], q[k // 2, k % 2] = a[k] - centre, b[k] - centre
    area_p, area_q = quadri_area(p), quadri_area(q)
    if area_p < 1e-14 or area_q < 1e-14:
        return 0.
    points = np.empty((24, 2))
    number = crossings(p, q, points)
    number = corners_inside(p, q, points, number)
    number = corners_inside(q, p, points, number)
    shared = hull_area(points, number)
    return shared / (area_p if foreground else area_p + area_q - shared)


@compiled
def turn(p, i, j, k):
    """Cross product of the vectors from point i to j and to k: twice the area of the triangle, positive for a turn
    from x to y."""
    return (p[j, 0] - p[i, 0]) * (p[k, 1] - p[i, 1]) - (p[k, 0] - p[i, 0]) * (p[j, 1] - p[i, 1])


@compiled
def quadri_area(p):
    return (abs(turn(p, 0, 1, 2)) + abs(turn(p, 0, 2, 3))) / 2


@compiled
def crossings(p, q, points):
    """Write the points where sides of p and q cross, and return their number."""
    number = 0
    for i in range(4):
        px, py = p[(i + 1) % 4, 0] - p[i, 0], p[(i + 1) % 4, 1] - p[i, 1]
        for j in range(4):
            qx, qy = q[(j + 1) % 4, 0] - q[j, 0], q[(j + 1) % 4, 1] - q[j, 1]
            det = qx * py - px * qy
            if abs(det) > 1e-14:
                x, y = q[j, 0] - p[i, 0], q[j, 1] - p[i, 1]
                t, s = (qx * y - x * qy) / det, (px * y - x * py) / det
                if 0 <= t <= 1 and 0 <= s <= 1:
                    points[number, 0], points[number, 1] = p[i, 0] + px * t, p[i, 1] + py * t
                    number += 1
    return number


@compiled
def corners_inside(p, q, points, number):
    """Add the corners of p that lie inside q, and return the new number of points."""
    for i in range(4):
        inside = True
        for j in (1, 3):
            x, y = q[j, 0] - q[0, 0], q[j, 1] - q[0, 1]
            along = (p[i, 0] - q[0, 0]) * x + (p[i, 1] - q[0, 1]) * y
            inside = inside and 0 <= along <= x * x + y * y
        if inside:
            points[number, 0], points[number, 1] = p[i, 0], p[i, 1]
            number += 1
    return number


@compiled
def hull_area(points, number):
    """Area of the convex hull of the first `number` points, by Andrew's monotone chain."""
    for i in range(1, number):  # sort by x, then y
        for j in range(i, 0, -1):
            x, y, before_x, before_y = points[j, 0], points[j, 1], points[j - 1, 0], points[j - 1, 1]
            if before_x < x or (before_x == x and before_y <= y):
                break
            points[j, 0], points[j, 1], points[j - 1, 0], points[j - 1, 1] = before_x, before_y, x, y
    hull = np.empty(24, np.int64)
    area = 0.
    for step in (1, -1):  # the lower half from left to right, the upper half from right to left
        size = 0
        for k in range(number):
            i = k if step == 1 else number - 1 - k
            while size > 1 and turn(points, hull[size - 2], hull[size - 1], i) <= 0:
                size -= 1
            hull[size] = i
            size += 1
        for k in range(1, size):
            area += turn(points, hull[0], hull[k - 1], hull[k]) / 2
    return area
