"""Overlaps of boxes (x1, y1, x2, y2) and non-maximum suppression.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
"""
import numpy as np
import torch
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

# Two boxes without area have the overlap 0 / 0 = NaN, which exceeds no threshold.
quietly = np.errstate(divide='ignore', invalid='ignore')


def widened(*tensors):
    """Promote tensors to one common type of at least float32, because 16 bits are too few for coordinates."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def area(boxes, offset=0):
    return (boxes[..., 2] - boxes[..., 0] + offset) * (boxes[..., 3] - boxes[..., 1] + offset)


def overlaps(boxes1, boxes2, offset=0, foreground=False):
    """Intersection over union (or over the area of boxes1) of boxes (..., 4) and (..., 4), broadcast -> (...).

    Works with tensors and with NumPy arrays. Arrays are several times faster in loops over few boxes.
    """
    size = boxes1[..., 2:].clip(max=boxes2[..., 2:]) - boxes1[..., :2].clip(min=boxes2[..., :2]) + offset
    shared = size[..., 0].clip(min=0) * size[..., 1].clip(min=0)
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


@quietly
def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (arXiv 1704.04503) on a CPU. Method 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian.

    Returns the indices of the K remaining boxes, and writes these boxes and their scores to dets[:K], (N, 5).
    """
    table = torch.cat(widened(boxes, scores[:, None]), 1).numpy()
    index = np.arange(len(table))
    left, i = len(table), 0
    while i < left:
        ahead = table[i:left, 4]
        best = i + (0 if np.isnan(ahead[0]) else np.nanargmax(ahead))  # mmcv's comparison skips NaN
        for rows in (table, index):
            rows[[i, best]] = rows[[best, i]]
        rest = slice(i + 1, left)
        overlap = overlaps(table[i, :4], table[rest, :4], offset)
        if method == 2:
            table[rest, 4] *= np.exp(-overlap ** 2 / sigma)
        else:
            table[rest, 4] *= np.where(overlap >= iou_threshold, method * (1 - overlap), 1)
        low = table[rest, 4] < min_score
        i, left = i + 1, left - int(low.sum())
        # The last boxes fill the gaps, as in mmcv. This determines the order of equal scores.
        gaps, fillers = low[:left - i].nonzero()[0], (~low[left - i:]).nonzero()[0][::-1]
        for rows in (table, index):
            rows[i + gaps] = rows[left + fillers]
    dets[:left] = torch.from_numpy(table[:left])
    return torch.from_numpy(index[:left])


def suppressed(order, overlap, threshold):
    """Greedy suppression in the given order. Yields each kept index (1,) and the indices that it suppresses (K,)."""
    while len(order):
        kept, rest = order[:1], order[1:]
        close = overlap(kept, rest) >= threshold
        yield kept, rest[close]
        order = rest[~close]


@quietly
def nms_match(dets, iou_threshold):
    """Lists of indices on a CPU: each kept box of dets (N, 5) with scores, followed by the boxes that it suppresses."""
    dets, = widened(dets)
    order = by_score(dets[:, 4].contiguous()).numpy()
    boxes = dets[:, :4].numpy()
    groups = suppressed(order, lambda kept, rest: overlaps(boxes[kept], boxes[rest]), iou_threshold)
    return [kept.tolist() + rest.tolist() for kept, rest in groups]
