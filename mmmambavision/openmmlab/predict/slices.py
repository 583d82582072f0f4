"""Predict on overlapping slices of a large image, with supervision's InferenceSlicer."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ...errors import UserError


def import_supervision() -> Any:
    """The package supervision.

    Raises:
        UserError: it is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise UserError("slices need supervision: pip install supervision") from None
    return supervision


def predict_slices(predict: Callable[[np.ndarray[Any, Any]], DetDataSample], image: np.ndarray[Any, Any], size: int,
                   overlap: float) -> DetDataSample:
    """Predict on each slice of an image, and merge the predictions by non-maximum suppression.

    Two predictions of a class are of the same object if their masks, or their boxes in a model without masks, overlap
    by more than half of the smaller one. So a part of an object at the border of a slice is removed if another slice
    has the whole object. SAHI merges by the same measure.

    Args:
        predict: a detector. It returns predictions on the CPU.
        image: (H, W) or (H, W, C).
        size: height and width of a slice in pixels.
        overlap: of neighbouring slices, as a fraction of `size`, from 0 to below 1.

    Returns:
        The predictions with the highest score first. Masks are a `CompactMask`, because (N, H, W) would need too much
        memory.
    """
    supervision = import_supervision()

    def detect(part: np.ndarray[Any, Any]) -> Any:
        found = supervision.Detections.from_mmdetection(predict(part))
        if found.mask is not None:  # with compact_masks=True, masks of the size of a slice make the merging slow
            found.mask = supervision.CompactMask.from_dense(
                found.mask, supervision.mask_to_xyxy(found.mask), part.shape[:2])
        return found

    slicer = supervision.InferenceSlicer(
        detect, slice_wh=size, overlap_wh=int(overlap * size), overlap_metric='IOS')
    found = slicer(image)
    found = found[np.argsort(-found.confidence, kind='stable')]
    instances = InstanceData(
        bboxes=torch.from_numpy(found.xyxy).float(), scores=torch.from_numpy(found.confidence),
        labels=torch.from_numpy(found.class_id))
    if found.mask is not None:
        instances.masks = found.mask
    return DetDataSample(pred_instances=instances)


def draw_slices(image: np.ndarray[Any, Any], sample: DetDataSample, classes: Sequence[str]) -> np.ndarray[Any, Any]:
    """The image (H, W, 3) in BGR with the predictions of `predict_slices`, drawn by supervision.

    mmdet's visualizer would need all masks in the size of the image.
    """
    supervision = import_supervision()
    instances = sample.pred_instances
    found = supervision.Detections(
        xyxy=instances.bboxes.numpy(), mask=instances.get('masks'), confidence=instances.scores.numpy(),
        class_id=instances.labels.numpy())
    labels = [f'{classes[label]}: {100 * score:.1f}' for label, score in zip(found.class_id, found.confidence)]
    drawn = supervision.MaskAnnotator().annotate(image.copy(), found)
    drawn = supervision.BoxAnnotator().annotate(drawn, found)
    return supervision.LabelAnnotator().annotate(drawn, found, labels)
