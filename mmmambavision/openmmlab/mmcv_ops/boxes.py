"""Overlaps of boxes (x1, y1, x2, y2) and non-maximum suppression.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
"""
from functools import cache

import numpy as np
import torch
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

from ...ops.compiled import load_kernels, unavailable


def widened(*tensors):
    """Promote tensors to one common type of at least float32, because 16 bits are too few for coordinates."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def area(boxes, offset=0):
    return (boxes[..., 2] - boxes[..., 0] + offset) * (boxes[..., 3] - boxes[..., 1] + offset)


def overlaps(boxes1, boxes2, offset=0, foreground=False):
    """Intersection over union (or over the area of boxes1) of boxes (..., 4) and (..., 4), broadcast -> (...)."""
    size = boxes1[..., 2:].minimum(boxes2[..., 2:]) - boxes1[..., :2].maximum(boxes2[..., :2]) + offset
    shared = size[..., 0].clamp(min=0) * size[..., 1].clamp(min=0)
    return shared / (area(boxes1, offset) if foreground else area(boxes1, offset) + area(boxes2, offset) - shared)


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """ious: (N,) if aligned, else (N, M). Mode 1 divides by the area of bboxes1."""
    bboxes1, bboxes2 = widened(bboxes1, bboxes2)
    ious.copy_(overlaps(bboxes1 if aligned else bboxes1[:, None], bboxes2, offset, foreground=mode == 1))


def nms(boxes, scores, iou_threshold, offset):
    """The kept indices, sorted by score."""
    boxes, scores = widened(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # Equal scores are common. Sort as mmcv does, so that ties have mmcv's order.
    order = by_score(scores)
    # mmcv compares in float32, where 3 / 5 > 0.6 is false. In float64 it is true.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return order[torch.ops.torchvision.nms(boxes[order], scores[order], threshold)]


def by_score(scores):
    return scores.sort(0, descending=True).indices


@cache
def kernels():
    """The module of kernels, which needs numba."""
    if reason := unavailable():
        raise NotImplementedError(f'this operator needs numba: {reason}')

    def run_once(module):
        table, order, one = np.zeros((1, 5), np.float32), np.zeros(1, np.int64), np.float32(1)
        module.soft_nms(table, order, one, one, one, one, one)
        module.nms_match(table, order, one)

    return load_kernels(f'{__package__}.box_kernels', run_once)


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (arXiv 1704.04503) on a CPU. Method 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian.

    Returns the indices of the K remaining boxes, and writes these boxes and their scores to dets[:K], (N, 5).
    """
    table = torch.cat(widened(boxes, scores[:, None]), 1).numpy()
    index = np.arange(len(table))
    settings = map(table.dtype.type, (iou_threshold, sigma, min_score, method, offset))
    left = kernels().soft_nms(table, index, *settings)
    dets[:left] = torch.from_numpy(table[:left])
    return torch.from_numpy(index[:left])


def nms_match(dets, iou_threshold):
    """Lists of indices on a CPU: each kept box of dets (N, 5) with scores, followed by the boxes that it suppresses."""
    dets, = widened(dets)
    order = by_score(dets[:, 4].contiguous()).numpy()
    boxes = dets[:, :4].contiguous().numpy()
    by = kernels().nms_match(boxes, order, boxes.dtype.type(iou_threshold))
    groups = {}
    for i in order.tolist():  # a kept box precedes the boxes that it suppresses
        groups.setdefault(by[i], []).append(i)
    return list(groups.values())
