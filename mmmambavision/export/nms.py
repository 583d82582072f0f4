"""Non-maximum suppression with an output of fixed size, so that everything after it has sizes known beforehand."""
import torch
import torchvision


@torch.library.custom_op('mmmambavision::fixed_nms', mutates_args=())
def fixed_nms(boxes: torch.Tensor, scores: torch.Tensor, iou: float, threshold: float, count: int) -> torch.Tensor:
    """Indices (count,) of the boxes kept, best first, filled up with the number of boxes.

    Args:
        boxes: corners (N, 4).
        scores: (N,); boxes of `threshold` and below are not considered.
        iou: boxes that overlap a better one by more are not kept.
        threshold: see scores.
        count: the size of the output.
    """
    index = (scores > threshold).nonzero()[:, 0]
    kept = index[torchvision.ops.nms(boxes[index], scores[index], iou)][:count]
    return torch.cat([kept, kept.new_full((count - len(kept),), len(boxes))])


@fixed_nms.register_fake
def _(boxes, scores, iou, threshold, count):
    return boxes.new_empty((count,), dtype=torch.long)


def nms_by_class(boxes, scores, classes, iou, threshold, count):
    """`fixed_nms` among boxes of one class each: those of different classes are moved apart, as mmcv's batched_nms does
    it.

    Args:
        boxes: (N, 4), scores (N,) and numbers of classes (N,).

    Returns:
        Indices (count,), filled up with N.
    """
    largest = torch.where((scores > threshold)[:, None], boxes, 0.).max()
    apart = boxes + (classes.to(boxes.dtype) * (largest + 1))[:, None]
    return torch.ops.mmmambavision.fixed_nms(apart, scores, iou, threshold, count)


def translate(boxes, scores, iou, threshold, count):
    """ONNX's NonMaxSuppression, whose output (M, 3) of image, class and box becomes (count,)."""
    from onnxscript import opset18 as op  # an optional package, of which `fixed_nms` itself needs nothing

    def integers(*values):
        return op.Constant(value_ints=list(values))

    found = op.NonMaxSuppression(
        op.Unsqueeze(boxes, integers(0)), op.Unsqueeze(scores, integers(0, 1)), integers(count),
        op.Constant(value_floats=[iou]), op.Constant(value_floats=[threshold]))
    found = op.Reshape(op.Slice(found, integers(2), integers(3), integers(1)), integers(-1))
    filling = op.Expand(op.Shape(boxes, start=0, end=1), integers(count))
    return op.Slice(op.Concat(found, filling, axis=0), integers(0), integers(count), integers(0))
