"""Overlaps and non-maximum suppression of rotated boxes (x, y, width, height, radians) and of quadrilaterals.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
"""
import math

import numpy as np
import torch

from ...ops.compiled import in_parallel
from .boxes import kernels

PAIRS_AT_ONCE = 2 ** 20  # a pair needs about 50 temporary numbers


def box_iou_rotated(bboxes1, bboxes2, ious, mode_flag, aligned):
    """ious: (N,) if aligned, else (N M,). Mode 1 divides by the area of bboxes1."""
    if aligned:
        ious.copy_(rotated_overlaps(bboxes1, bboxes2, mode_flag == 1))
        return
    rows = max(1, PAIRS_AT_ONCE // max(1, len(bboxes2)))
    for part, result in zip(bboxes1.split(rows), ious.view(len(bboxes1), len(bboxes2)).split(rows)):
        result.copy_(rotated_overlaps(part[:, None], bboxes2, mode_flag == 1))


def nms_rotated(dets, scores, order, dets_sorted, labels, iou_threshold, multi_label):
    """The kept indices, sorted by score. With multi_label, dets has a sixth column with labels, and only boxes of the
    same label suppress each other."""
    if not on_gpu(dets):
        return nms_by_kernel(dets, order, iou_threshold, multi_label)

    def overlap(kept, rest):
        iou = rotated_overlaps(dets[kept, :5], dets[rest, :5])
        return torch.where(dets[kept, 5] == dets[rest, 5], iou, -1) if multi_label else iou

    return kept_by_blocks(order, overlap, iou_threshold)


def nms_by_kernel(dets, order, iou_threshold, multi_label):
    boxes = dets.detach().double().cpu().contiguous().numpy()
    kept = kernels().nms_polygons(boxes, order.cpu().numpy(), float(iou_threshold), bool(multi_label))
    return torch.from_numpy(kept).to(order.device)


def box_iou_quadri(boxes1, boxes2, ious, mode_flag, aligned):
    """Overlaps of quadrilaterals (x1, y1, ..., x4, y4), on a CPU. ious: (N,) if aligned, else (N M,). Mode 1 divides by
    the area of boxes1."""
    boxes1, boxes2 = (boxes.detach().double().cpu().contiguous().numpy() for boxes in (boxes1, boxes2))
    result = np.empty(ious.numel())
    in_parallel(kernels().quadri_ious, len(boxes1), boxes1, boxes2, mode_flag == 1, bool(aligned), result)
    ious.copy_(torch.from_numpy(result))


def nms_quadri(dets, scores, order, dets_sorted, iou_threshold, multi_label):
    """As `nms_rotated`, for quadrilaterals in the first 8 columns, on a CPU."""
    return nms_by_kernel(dets, order, iou_threshold, multi_label)


def on_gpu(dets):
    return dets.is_cuda


def kept_by_blocks(order, overlap, threshold):
    """Non-maximum suppression in blocks, with few GPU calls.

    The GPU compares a block of boxes with all remaining boxes at once. The CPU then applies the suppression in order.
    """
    kept = [order[:0]]
    while len(order):
        size = max(1, PAIRS_AT_ONCE // len(order))
        close = (overlap(order[:size, None], order) >= threshold).cpu().numpy()
        alive = np.ones(len(order), bool)
        for i, row in enumerate(close):
            if alive[i]:
                alive[i + 1:] &= ~row[i + 1:]
        alive = torch.from_numpy(alive).to(order.device)
        kept.append(order[:size][alive[:size]])
        order = order[size:][alive[size:]]
    return torch.cat(kept)


def rotated_overlaps(boxes1, boxes2, foreground=False):
    """Intersection over union (or over the area of boxes1) of boxes (..., 5) and (..., 5), broadcast -> (...)."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    shared = rotated_intersection(boxes1, boxes2)
    area1, area2 = boxes1[..., 2] * boxes1[..., 3], boxes2[..., 2] * boxes2[..., 3]
    ratio = shared / (area1 if foreground else area1 + area2 - shared)
    return ratio.masked_fill((area1 < 1e-14) | (area2 < 1e-14), 0)


def rotated_intersection(boxes1, boxes2):
    """The intersection area of boxes (..., 5) and (..., 5) -> (...).

    In its own coordinates, the second box is the set 0 < x < w, 0 < y < h. By Green's theorem, its intersection area
    with a polygon is the integral of clamp(x, 0, w) dy along the parts of the polygon inside 0 < y < h.
    """
    x, y = corners_seen_from(boxes1, boxes2)
    width, height = boxes2[..., 2, None], boxes2[..., 3, None]

    def within(value, limit):
        return value.clamp(min=0).minimum(limit)

    # Clip each of the four edges, from (x, y) to the next corner, to 0 < y < h. A horizontal edge contributes 0.
    next_x, next_y = x.roll(-1, -1), y.roll(-1, -1)
    start, end = within(y, height), within(next_y, height)
    slope = (next_x - x) / torch.where(next_y == y, 1, next_y - y)
    x0, x1 = x + (start - y) * slope, x + (end - y) * slope
    # The mean of clamp(x, 0, w) from x0 to x1: the part between 0 and w, and the part beyond w.
    a, b = within(x0, width), within(x1, width)
    beyond = (x1 - width).clamp(min=0) - (x0 - width).clamp(min=0)
    mean = ((b - a) * (a + b) / 2 + beyond * width) / torch.where(x0 == x1, 1, x1 - x0)
    return (torch.where(x0 == x1, a, mean) * (end - start)).sum(-1).clamp(min=0)


def corners_seen_from(boxes1, boxes2):
    """x and y (..., 4) of the corners of boxes1, in coordinates of boxes2: first corner as origin, edges as axes."""
    angle = (boxes1[..., 4] - boxes2[..., 4])[..., None]
    across, down = boxes1.new_tensor([[.5, -.5, -.5, .5], [.5, .5, -.5, -.5]])
    x, y = across * boxes1[..., 2, None], down * boxes1[..., 3, None]
    x, y = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    cos, sin = boxes2[..., 4].cos(), boxes2[..., 4].sin()
    right, below = (boxes1[..., :2] - boxes2[..., :2]).unbind(-1)
    return (x + (cos * right + sin * below + boxes2[..., 2] / 2)[..., None],
            y + (cos * below - sin * right + boxes2[..., 3] / 2)[..., None])


def diff_iou_rotated_sort_vertices_forward(vertices, mask, num_valid):
    """Sort the corners of intersections by angle, for mmcv's differentiable overlaps.

    Args:
        vertices: (B, N, 24, 2) around the origin: 8 corners of two boxes, and 16 crossings of their sides.
        mask: (B, N, 24), which vertices are corners of the intersection.

    Returns:
        Indices (B, N, 9), int32: the different valid vertices counterclockwise, and the first one again. The remaining
        entries point to an invalid crossing, whose coordinates mmcv sets to 0.
    """
    with torch.no_grad():
        x, y = vertices.unbind(-1)
        angle = torch.atan2(y, x).remainder(2 * math.pi).masked_fill(~mask, torch.inf)
        order = angle.argsort(dim=-1, stable=True)
        places = vertices.gather(2, order[..., None].expand_as(vertices))
        valid = mask.gather(2, order)
        valid[..., 1:] &= ((places[..., 1:, :] - places[..., :-1, :]).abs() > 1e-8).any(-1)  # the same corner of both
        order = order.gather(2, (~valid).to(torch.uint8).argsort(dim=-1, stable=True))
        number = valid.sum(-1, keepdim=True).clamp(max=8)
        padding = 8 + mask[..., 8:].to(torch.uint8).argmin(-1, keepdim=True)
        position = torch.arange(9, device=mask.device)
        index = torch.where(position < number, order[..., :9], padding)
        index = torch.where(position == number, order[..., :1], index)
        return torch.where(number < 3, padding, index).int()
