"""Box decoding, non-maximum suppression and RoI features of mmdet, in operations that ONNX supports."""
import math

import torch
import torchvision
from torch import nn

from ..errors import UserError

SMALLEST_RATIO = 16 / 1000  # mmdet's limit: a side shrinks or grows at most by this factor


def check_coder(coder):
    """Check that `decode` supports a box coder.

    Raises:
        UserError: the box coder is not supported.
    """
    name = type(coder).__name__
    if name not in ('DeltaXYWHBBoxCoder', 'DistancePointBBoxCoder') or not coder.clip_border or getattr(
            coder, 'add_ctr_clamp', False):
        raise UserError(f'the box coder {name} cannot be exported. Only DeltaXYWHBBoxCoder and DistancePointBBoxCoder '
                        'with clip_border and without add_ctr_clamp can')


def decode(coder, priors, deltas, height, width):
    """Decode a head's deltas (..., 4) and clip the boxes (..., 4) to the image.

    mmdet's coder.decode cannot be exported: during an export it imports a module that mmdet no longer has.

    Args:
        coder: DeltaXYWHBBoxCoder (Rich feature hierarchies, appendix C), or DistancePointBBoxCoder: the distances from
            a point to the four sides (FCOS, equation 1).
        priors: boxes (..., 4), or points (..., 2). The distances of a box are from its centre.
        deltas: outputs of the head.
        height, width: size of the image.
    """
    if type(coder).__name__ == 'DistancePointBBoxCoder':
        points = priors if priors.shape[-1] == 2 else (priors[..., :2] + priors[..., 2:]) / 2
        corners = points - deltas[..., :2], points + deltas[..., 2:]
    else:
        means, stds = (deltas.new_tensor(values) for values in (coder.means, coder.stds))
        moved = deltas * stds + means
        centres, sides = (priors[..., :2] + priors[..., 2:]) * .5, priors[..., 2:] - priors[..., :2]
        bound = abs(math.log(SMALLEST_RATIO))
        centres = centres + sides * moved[..., :2]
        sides = sides * moved[..., 2:].clamp(-bound, bound).exp()
        corners = centres - sides * .5, centres + sides * .5
    # as_tensor((width, height)) would store the size of the sample as a constant
    limits = torch.cat([deltas.new_full((1,), width), deltas.new_full((1,), height)])
    return torch.cat([torch.minimum(corner.clamp(min=0), limits) for corner in corners], -1)


@torch.library.custom_op('mmmambavision::fixed_nms', mutates_args=())
def fixed_nms(boxes: torch.Tensor, scores: torch.Tensor, iou: float, threshold: float, count: int) -> torch.Tensor:
    """Non-maximum suppression: indices (count,) of the kept boxes, best first, padded with N.

    The output size is fixed, so all later operations have fixed sizes.

    Args:
        boxes: corners (N, 4).
        scores: (N,).
        iou: a box is dropped if its overlap with a better box is larger.
        threshold: boxes with this score or less are ignored.
        count: size of the output.
    """
    index = (scores > threshold).nonzero()[:, 0]
    kept = index[torchvision.ops.nms(boxes[index], scores[index], iou)][:count]
    return torch.cat([kept, kept.new_full((count - len(kept),), len(boxes))])


@fixed_nms.register_fake
def _(boxes, scores, iou, threshold, count):
    return boxes.new_empty((count,), dtype=torch.long)


def nms_by_class(boxes, scores, classes, nms, threshold, count):
    """`fixed_nms` within each class. Boxes of different classes are moved apart, as in mmcv's batched_nms.

    Args:
        boxes, scores, classes: boxes (N, 4), scores (N,) and class numbers (N,).
        nms: dict(iou_threshold=...) of a test_cfg. With class_agnostic=True, classes are ignored.
        threshold, count: see `fixed_nms`.

    Returns:
        Indices (count,), padded with N.
    """
    if not nms.get('class_agnostic'):
        largest = torch.where((scores > threshold)[:, None], boxes, 0.).max()
        boxes = boxes + (classes.to(boxes.dtype) * (largest + 1))[:, None]
    return torch.ops.mmmambavision.fixed_nms(boxes, scores, nms['iou_threshold'], threshold, count)


def translate_nms(boxes, scores, iou, threshold, count):
    """Translate `fixed_nms` to ONNX's NonMaxSuppression. Its output (M, 3) of image, class, box becomes (count,)."""
    from onnxscript import opset18 as op  # optional package, needed only for an export

    def integers(*values):
        return op.Constant(value_ints=list(values))

    found = op.NonMaxSuppression(
        op.Unsqueeze(boxes, integers(0)), op.Unsqueeze(scores, integers(0, 1)), integers(count),
        op.Constant(value_floats=[iou]), op.Constant(value_floats=[threshold]))
    found = op.Reshape(op.Slice(found, integers(2), integers(3), integers(1)), integers(-1))
    filling = op.Expand(op.Shape(boxes, start=0, end=1), integers(count))
    return op.Slice(op.Concat(found, filling, axis=0), integers(0), integers(count), integers(0))


class RegionFeatures(nn.Module):
    """mmdet's SingleRoIExtractor (Feature Pyramid Networks, equation 1) with fixed tensor sizes.

    mmdet selects the regions of each level, and the size of a selection depends on the image. Here all levels are
    padded to the finest level's size and stacked to one batch. RoIAlign's batch index then selects the level of a
    region, so each region is pooled once. The padding repeats the last row and column, because RoIAlign reads up to
    half a pixel beyond the border of a level.

    Args:
        extractor: mmdet's SingleRoIExtractor.

    Raises:
        UserError: the extractor does not use average RoIAlign.
    """

    def __init__(self, extractor):
        super().__init__()
        layers = extractor.roi_layers
        if type(extractor).__name__ != 'SingleRoIExtractor' or any(
                type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg' for layer in layers):
            raise UserError('only detectors with a SingleRoIExtractor and RoIAlign (average) can be exported')
        self.levels, self.finest = extractor.num_inputs, extractor.finest_scale
        self.size, self.aligned = layers[0].output_size, layers[0].aligned
        self.samples = layers[0].sampling_ratio  # 0: adaptive, from the size of the region
        self.register_buffer('scales', torch.tensor([layer.spatial_scale for layer in layers]), False)

    def stack(self, maps):
        """Stack the maps (1, C, H_i, W_i) of the pyramid, finest first, to one batch (levels, C, H_0, W_0)."""
        height, width = maps[0].shape[2:]
        filled = [maps[0]]
        for one in maps[1:self.levels]:
            rows, columns = (torch.arange(target, device=one.device).clamp(max=own - 1)
                             for target, own in zip((height, width), one.shape[2:]))
            filled.append(one.index_select(2, rows).index_select(3, columns))
        return torch.cat(filled)

    def forward(self, stacked, boxes):
        """Features (N, C, *size) of boxes (N, 4) in pixels of the image."""
        sides = boxes[:, 2:] - boxes[:, :2]
        level = torch.floor(torch.log2((sides[:, 0] * sides[:, 1]).sqrt() / self.finest + 1e-6))
        level = level.clamp(0, self.levels - 1)
        scale = self.scales[level.long()]
        regions = torch.cat([level[:, None], boxes * scale[:, None]], 1)
        return torchvision.ops.roi_align(stacked, regions, self.size, 1., self.samples, self.aligned)
