"""Overlaps of boxes (x1, y1, x2, y2) and non-maximum suppression.

Names and arguments are those by which mmcv.ops calls its extension; tensors named as results are filled in place.
"""
import numpy as np
import torch
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

# Boxes without an area overlap by 0 / 0, which is above no threshold.
quietly = np.errstate(divide='ignore', invalid='ignore')


def widened(*tensors):
    """The tensors in one floating type that has at least float32's precision: coordinates do not fit in 16 bits."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def area(boxes, offset=0):
    return (boxes[..., 2] - boxes[..., 0] + offset) * (boxes[..., 3] - boxes[..., 1] + offset)


def overlaps(boxes1, boxes2, offset=0, foreground=False):
    """Intersection over union, or over the area of boxes1, of boxes (..., 4) and (..., 4) that broadcast -> (...).

    Of tensors, and of arrays, with which loops over few boxes are several times faster.
    """
    size = boxes1[..., 2:].clip(max=boxes2[..., 2:]) - boxes1[..., :2].clip(min=boxes2[..., :2]) + offset
    shared = size[..., 0].clip(min=0) * size[..., 1].clip(min=0)
    return shared / (area(boxes1, offset) if foreground else area(boxes1, offset) + area(boxes2, offset) - shared)


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """ious: (N,) if aligned, else (N, M). Mode 1 divides by the area of bboxes1."""
    bboxes1, bboxes2 = widened(bboxes1, bboxes2)
    ious.copy_(overlaps(bboxes1 if aligned else bboxes1[:, None], bboxes2, offset, foreground=mode == 1))


def nms(boxes, scores, iou_threshold, offset):
    """The kept indices, by score."""
    boxes, scores = widened(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # Equal scores are common, and this sort of mmcv's has an order of its own for them, which torchvision's then keeps.
    order = by_score(scores)
    # mmcv compares in float32: 3 / 5 is not above a threshold of 0.6, in double it is.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return order[torch.ops.torchvision.nms(boxes[order], scores[order], threshold)]


def by_score(scores):
    return scores.sort(0, descending=True).indices


@quietly
def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (arXiv 1704.04503) on a CPU; method 0 drops what overlaps, 1 decays it linearly, 2 by a Gaussian.

    Returns the indices of the K boxes that are left and writes those and their scores to dets[:K], (N, 5).
    """
    table = torch.cat(widened(boxes, scores[:, None]), 1).numpy()
    index = np.arange(len(table))
    left, i = len(table), 0
    while i < left:
        ahead = table[i:left, 4]
        best = i + (0 if np.isnan(ahead[0]) else np.nanargmax(ahead))  # mmcv's comparison passes NaN over
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
        # The last ones fill the gaps, as mmcv has it: that decides which of two equal scores comes first.
        gaps, fillers = low[:left - i].nonzero()[0], (~low[left - i:]).nonzero()[0][::-1]
        for rows in (table, index):
            rows[i + gaps] = rows[left + fillers]
    dets[:left] = torch.from_numpy(table[:left])
    return torch.from_numpy(index[:left])


def suppressed(order, overlap, threshold):
    """Go greedily through the indices `order`: yields each one kept, (1,), and those that it suppresses, (K,)."""
    while len(order):
        kept, rest = order[:1], order[1:]
        close = overlap(kept, rest) >= threshold
        yield kept, rest[close]
        order = rest[~close]


@quietly
def nms_match(dets, iou_threshold):
    """Lists of indices, on a CPU: each kept box of dets, (N, 5) with scores, and then those that it suppresses."""
    dets, = widened(dets)
    order = by_score(dets[:, 4].contiguous()).numpy()
    boxes = dets[:, :4].numpy()
    groups = suppressed(order, lambda kept, rest: overlaps(boxes[kept], boxes[rest]), iou_threshold)
    return [kept.tolist() + rest.tolist() for kept, rest in groups]
