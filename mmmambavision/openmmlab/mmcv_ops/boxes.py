"""Overlaps of boxes and non-maximum suppression. Boxes are (x1, y1, x2, y2), rotated ones (x, y, width, height, radians).

Names and arguments here are those by which mmcv.ops calls its extension; tensors named as results are filled in place.
"""
import torch
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

from .precision import widened


def area(boxes, offset=0):
    return (boxes[..., 2] - boxes[..., 0] + offset) * (boxes[..., 3] - boxes[..., 1] + offset)


def overlaps(boxes1, boxes2, offset=0, foreground=False):
    """Intersection over union, or over the area of boxes1, of boxes (..., 4) and (..., 4) that broadcast -> (...)."""
    corner = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    width, height = (torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - corner + offset).clamp(min=0).unbind(-1)
    shared = width * height
    return shared / (area(boxes1, offset) if foreground else area(boxes1, offset) + area(boxes2, offset) - shared)


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """ious: (N,) if aligned, else (N, M). Mode 1 divides by the area of bboxes1."""
    bboxes1, bboxes2 = widened(bboxes1, bboxes2)
    ious.copy_(overlaps(bboxes1 if aligned else bboxes1[:, None], bboxes2, offset, foreground=mode == 1))


def nms(boxes, scores, iou_threshold, offset):
    """The kept indices, by score. Of equal scores the first box goes first, where compiled mmcv's order is any."""
    boxes, scores = widened(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32: 3 / 5 is not above a threshold of 0.6, in double it is.
    return torch.ops.torchvision.nms(boxes, scores, torch.tensor(iou_threshold, dtype=torch.float32).item())


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS (arXiv 1704.04503); method 0 drops what overlaps, 1 decays it linearly, 2 by a Gaussian.

    Returns the indices of the K boxes that are left and writes those and their scores to dets[:K], (N, 5).
    """
    table = torch.cat(widened(boxes, scores[:, None]), 1)
    index = torch.arange(len(table), device=table.device)
    count, i = len(table), 0
    while i < count:
        best = i + int(table[i:count, 4].argmax())
        for rows in (table, index):
            rows[[i, best]] = rows[[best, i]]
        rest = slice(i + 1, count)
        overlap = overlaps(table[i, :4], table[rest, :4], offset)
        if method == 2:
            table[rest, 4] *= torch.exp(-overlap ** 2 / sigma)
        else:
            table[rest, 4] *= torch.where(overlap >= iou_threshold, 1 - overlap if method == 1 else 0., 1.)
        low = table[rest, 4] < min_score
        i, count = i + 1, count - int(low.sum())
        # The last ones fill the gaps, as mmcv has it: that decides which of two equal scores comes first.
        gaps, fillers = i + low[:count - i].nonzero()[:, 0], count + (~low[count - i:]).nonzero()[:, 0].flip(0)
        for rows in (table, index):
            rows[gaps] = rows[fillers]
    dets[:count] = table[:count]
    return index[:count]


def suppressed(order, overlap, threshold):
    """Go greedily through the indices `order`: yields each one kept, (1,), and those that it suppresses, (K,)."""
    while len(order):
        kept, rest = order[:1], order[1:]
        close = overlap(kept, rest) >= threshold
        yield kept, rest[close]
        order = rest[~close]


def nms_match(dets, iou_threshold):
    """Lists of indices: every kept box of dets, (N, 5) with scores, and then those that it suppresses."""
    dets, = widened(dets)
    order = dets[:, 4].sort(dim=0, descending=True, stable=True).indices
    groups = suppressed(order, lambda kept, rest: overlaps(dets[kept, :4], dets[rest, :4]), iou_threshold)
    return [kept.tolist() + rest.tolist() for kept, rest in groups]


def nms_rotated(dets, scores, order, dets_sorted, labels, iou_threshold, multi_label):
    """The kept indices, by score. With multi_label, dets has labels as a sixth column, and only equal ones compete."""
    def overlap(kept, rest):
        iou = rotated_overlaps(dets[kept, :5], dets[rest, :5])
        return torch.where(dets[kept, 5] == dets[rest, 5], iou, -1) if multi_label else iou

    return torch.cat([order[:0], *(kept for kept, _ in suppressed(order, overlap, iou_threshold))])


def box_iou_rotated(bboxes1, bboxes2, ious, mode_flag, aligned):
    """ious: (N,) if aligned, else (N * M,). Mode 1 divides by the area of bboxes1."""
    if aligned:
        ious.copy_(rotated_overlaps(bboxes1, bboxes2, mode_flag == 1))
    elif ious.numel():
        # In parts, for each pair of boxes takes some 50 numbers on the way.
        rows = max(1, 2 ** 20 // len(bboxes2))
        ious.copy_(torch.cat([rotated_overlaps(part[:, None], bboxes2, mode_flag == 1).flatten()
                              for part in bboxes1.split(rows)]))


def rotated_overlaps(boxes1, boxes2, foreground=False):
    """Intersection over union, or over the area of boxes1, of boxes (..., 5) and (..., 5) that broadcast -> (...)."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    shared = rotated_intersection(boxes1, boxes2)
    area1, area2 = boxes1[..., 2] * boxes1[..., 3], boxes2[..., 2] * boxes2[..., 3]
    ratio = shared / (area1 if foreground else area1 + area2 - shared)
    return ratio.masked_fill((area1 < 1e-14) | (area2 < 1e-14), 0)


def rotated_intersection(boxes1, boxes2):
    """The area that boxes (..., 5) and (..., 5) share.

    Seen from its own axes the second box is the set 0 < x < w, 0 < y < h. By Green's theorem the area that it shares
    with a polygon is the integral of clamp(x, 0, w) dy along the polygon, where that is within 0 < y < h.
    """
    angle = boxes1[..., 4] - boxes2[..., 4]
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    right, down = boxes1.new_tensor([[.5, -.5, -.5, .5], [.5, .5, -.5, -.5]])
    x, y = right * boxes1[..., 2, None], down * boxes1[..., 3, None]
    x, y = cos * x - sin * y, sin * x + cos * y
    cos, sin = boxes2[..., 4].cos(), boxes2[..., 4].sin()
    across, along = (boxes1[..., :2] - boxes2[..., :2]).unbind(-1)
    width, height = boxes2[..., 2], boxes2[..., 3]
    x = x + (cos * across + sin * along + width / 2)[..., None]
    y = y + (cos * along - sin * across + height / 2)[..., None]
    width, height = width[..., None], height[..., None]

    def within(value, limit):
        return torch.minimum(value.clamp(min=0), limit)

    # Each of the four edges, from (x, y) to the next corner, cut to 0 < y < h; a level one is cut to nothing.
    rise, run = y.roll(-1, -1) - y, x.roll(-1, -1) - x
    start, end = within(y, height), within(y.roll(-1, -1), height)
    slope = run / torch.where(rise == 0, 1, rise)
    x0, x1 = x + (start - y) * slope, x + (end - y) * slope
    # The mean of clamp(x, 0, w) from x0 to x1: what is between 0 and w, and what is beyond w.
    a, b = within(x0, width), within(x1, width)
    beyond = (x1 - width).clamp(min=0) - (x0 - width).clamp(min=0)
    mean = torch.where(x0 == x1, a, ((b - a) * (a + b) / 2 + width * beyond) / torch.where(x0 == x1, 1, x1 - x0))
    return (mean * (end - start)).sum(-1).clamp(min=0)
