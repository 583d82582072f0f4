"""Boxes of mmdet's heads, from deltas and from anchors, in operations that ONNX has."""
import math

import torch

from ..errors import UserError

SMALLEST_RATIO = 16 / 1000  # mmdet's bound of how a side may shrink, and its inverse of how it may grow


def check_coder(coder):
    """See that a box coder is the one that `decode` knows.

    Raises:
        UserError: it is another.
    """
    if type(coder).__name__ != 'DeltaXYWHBBoxCoder' or not coder.clip_border or coder.add_ctr_clamp:
        raise UserError(f'boxes of a {type(coder).__name__} are not exported, only those of DeltaXYWHBBoxCoder with '
                        'clip_border and without add_ctr_clamp')


def decode(coder, boxes, deltas, height, width):
    """Boxes (..., 4) moved by a head's deltas (..., 4) and clipped to an image (Rich feature hierarchies, appendix C).

    mmdet's coder.decode is not called because it imports a module that mmdet has no more when a graph is exported.
    """
    means, stds = (deltas.new_tensor(values) for values in (coder.means, coder.stds))
    moved = deltas * stds + means
    centres, sides = (boxes[..., :2] + boxes[..., 2:]) * .5, boxes[..., 2:] - boxes[..., :2]
    bound = abs(math.log(SMALLEST_RATIO))
    centres = centres + sides * moved[..., :2]
    sides = sides * moved[..., 2:].clamp(-bound, bound).exp()
    # as_tensor((width, height)) would keep the sample's
    limits = torch.cat([deltas.new_full((1,), width), deltas.new_full((1,), height)])
    first, last = centres - sides * .5, centres + sides * .5
    return torch.cat([torch.minimum(corner.clamp(min=0), limits) for corner in (first, last)], -1)


def anchors(generator, level, height, width, like):
    """Anchors (height * width * A, 4) of mmdet's AnchorGenerator for a level's map."""
    base = generator.base_anchors[level].to(like)
    stride_x, stride_y = generator.strides[level]
    x = torch.arange(width, device=like.device).to(like) * stride_x
    y = torch.arange(height, device=like.device).to(like) * stride_y
    corner = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], -1)
    return (corner.repeat(1, 1, 2)[:, :, None] + base).reshape(-1, 4)


def best_of_levels(head, maps, cfg, height, width):
    """The best boxes of each level of an anchor head (RPN, RetinaNet), before suppression.

    Args:
        head: mmdet's AnchorHead.
        maps: of the pyramid, (1, C, H_i, W_i).
        cfg: its test_cfg. nms_pre says how many boxes of a level are kept, all where it is not positive; boxes with a
            side of min_bbox_size or less get the score -1.
        height, width: of the image without padding.

    Returns:
        Boxes (N, 4), scores (N,), labels (N,) and levels (N,).
    """
    found, count = [], cfg.get('nms_pre', -1)
    for level, (scores, deltas) in enumerate(zip(*head(maps))):
        own = anchors(head.prior_generator, level, *scores.shape[2:], scores)
        scores = scores[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[:, :-1]
        classes = scores.shape[1]
        total = scores.numel()
        scores, place = scores.reshape(-1).topk(torch.sym_min(count, total) if count > 0 else total)
        anchor = place // classes
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)[anchor]
        boxes = decode(head.bbox_coder, own[anchor], deltas, height, width)
        large = (boxes[:, 2:] - boxes[:, :2] > cfg.get('min_bbox_size', -1)).all(1)
        scores = torch.where(large, scores, -1.)
        found.append((boxes, scores, place % classes, torch.full_like(place, level)))
    return tuple(map(torch.cat, zip(*found)))
