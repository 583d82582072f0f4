"""Dense heads of mmdet, in operations that ONNX supports: the best boxes of each level, and RTMDet-Ins' masks.

There is one implementation for all heads with mmdet's own `BaseDenseHead.predict`: RetinaNet, ATSS, FCOS, RTMDet, the
RPN and others. They differ in their outputs, prior generators and box coders. GFL predicts distributions of distances,
and RTMDet-Ins also predicts kernels of masks.
"""
import torch

from .boxes import decode

METHODS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
OWN_METHODS = ('GFLHead', 'RTMDetInsHead')  # classes with their own methods that are implemented here


def is_dense(head):
    """Whether a head predicts with mmdet's `BaseDenseHead`, or as GFL or RTMDet-Ins."""
    definers = [next((kind.__name__ for kind in type(head).__mro__ if method in vars(kind)), None)
                for method in METHODS]
    own = set(definers) - {'BaseDenseHead'}
    return not own or (len(own) == 1 and own <= set(OWN_METHODS))


def predicts_masks(head):
    """Whether a dense head is of RTMDet-Ins."""
    return hasattr(head, 'num_gen_params')


def best_of_levels(head, outputs, cfg, height, width):
    """The boxes with the highest scores of each level of a dense head, before suppression.

    Args:
        head: mmdet's BaseDenseHead.
        outputs: outputs of the head, lists of maps (1, A * n, H_i, W_i) for A priors: scores, deltas, and others.
        cfg: test_cfg of the head. nms_pre is the number of boxes to keep per level, all boxes if it is not positive.
            Boxes with a side of min_bbox_size or less get the score -1.
        height, width: size of the image without padding.

    Returns:
        Boxes (N, 4), scores (N,), labels (N,), levels (N,), priors (N, 4) or (N, 2), and the other outputs (N, n).
    """
    found, count = [], cfg.get('nms_pre', -1)
    for level, (scores, *others) in enumerate(zip(*outputs)):
        generator = head.prior_generator
        priors = generator.single_level_grid_priors(scores.shape[2:], level, scores.dtype, scores.device)
        number = generator.num_base_priors[level]
        scores = _rows(scores, number)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[:, :-1]
        classes = scores.shape[1]
        total = scores.numel()
        scores, place = scores.reshape(-1).topk(torch.sym_min(count, total) if count > 0 else total)
        prior = place // classes
        priors = priors[prior]
        deltas, *others = (_rows(values, number)[prior] for values in others)
        if hasattr(head, 'integral'):  # GFL: the mean of a distribution over multiples of the stride
            # a sum of products, because OpenVINO fails on a MatMul with a vector and a multiplication after it
            distances = head.integral.project * generator.strides[level][0]
            deltas = (deltas.unflatten(1, (4, -1)).softmax(-1) * distances).sum(-1)
        boxes = decode(head.bbox_coder, priors, deltas, height, width)
        if cfg.get('min_bbox_size', -1) >= 0:
            large = (boxes[:, 2:] - boxes[:, :2] > cfg.min_bbox_size).all(1)
            scores = torch.where(large, scores, -1.)
        found.append((boxes, scores, place % classes, torch.full_like(place, level), priors, *others))
    return tuple(map(torch.cat, zip(*found)))


def _rows(values, number):
    """A map (1, number * n, H, W) as one row per prior, (H * W * number, n)."""
    return values[0].permute(1, 2, 0).reshape(-1, values.shape[1] // number)


def dynamic_masks(head, features, kernels, points, strides):
    """Mask logits (N, h, w) of RTMDet-Ins: convolutions of 1 x 1 with own kernels for each box (RTMDet, section 3.5).

    The inputs of the convolutions are the features, and the positions relative to the prior of the box.

    Args:
        head: mmdet's RTMDetInsHead.
        features: the head's features, (1, C, h, w).
        kernels: weights and biases of all convolutions, (N, num_gen_params).
        points: priors of the boxes in pixels, (N, 2).
        strides: strides of the levels of the priors, (N,).
    """
    height, width = features.shape[2:]
    grid = head.prior_generator.single_level_grid_priors((height, width), 0, features.dtype, features.device)
    relative = (points[:, :, None] - grid.T) / (strides[:, None, None] * 8)
    values = torch.cat([relative, features.flatten(2).expand(len(kernels), -1, -1)], 1)
    parts, layers = kernels.split([*head.weight_nums, *head.bias_nums], 1), len(head.weight_nums)
    for index, (weights, biases) in enumerate(zip(parts[:layers], parts[layers:])):
        values = weights.unflatten(1, (biases.shape[1], -1)) @ values + biases[:, :, None]
        values = values.relu() if index < layers - 1 else values
    return values.unflatten(2, (height, width))[:, 0]
