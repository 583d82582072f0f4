"""mmdet's detectors as functions of one image, with fixed output sizes."""
import torch
from torch import nn

from ..errors import UserError
from .boxes import RegionFeatures, best_of_levels, check_coder, decode, nms_by_class
from .parts import Preprocessor


def detector(model):
    """The export module for a model of mmdet.

    Raises:
        UserError: the model cannot be exported.
    """
    kind = type(model).__name__
    # Mask2Former, SOLO, classifiers and wrappers for test-time augmentation have neither head.
    head = type(getattr(model, 'roi_head', None) or getattr(model, 'bbox_head', None)).__name__
    if head == 'RetinaHead':
        return OneStage(model)
    if head in ('StandardRoIHead', 'CascadeRoIHead') and not (
            model.roi_head.with_shared_head or getattr(model, 'with_semantic_head', False)):
        return TwoStage(model)
    raise UserError(f'a {kind}{"" if head == "NoneType" else f" with {head}"} cannot be exported whole; Faster, Mask '
                    'and Cascade R-CNN, RetinaNet and segmentors can. Export its backbone or neck', 'part')


class Detector(nn.Module):
    """RGB image (1, 3, H, W), 0 to 255, to dets (n, 5), labels (n) and, with masks, masks (n, h, w).

    dets are corners in pixels and scores, best first. n is the maximum number of detections in the config. Unused rows
    have the label -1. masks are probabilities inside the boxes.

    Args:
        model: model of mmdet with its config as `cfg`.

    Attributes:
        counts: number of boxes kept per level, by config key.
    """
    any_batch = False
    outputs = ('dets', 'labels')

    def __init__(self, model):
        super().__init__()
        settings = model.cfg.model.data_preprocessor
        self.preprocess = Preprocessor(settings, settings.get('pad_size_divisor'), settings.get('pad_value', 0))
        self.backbone, self.neck = model.backbone, model.neck if model.with_neck else nn.Identity()

    def maps(self, image):
        return self.neck(self.backbone(self.preprocess(image)))

    @staticmethod
    def suppress(boxes, scores, labels, cfg):
        """The boxes, scores and labels that a test_cfg keeps. Unused rows have an empty box, score 0 and label -1."""
        keep = nms_by_class(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.get('score_thr', 0.), cfg.max_per_img)
        return _append(boxes, 0.)[keep], _append(scores, 0.)[keep], _append(labels, -1)[keep]


class OneStage(Detector):
    """RetinaNet.

    Args:
        model: a SingleStageDetector with RetinaHead.

    Raises:
        UserError: an option of the head cannot be exported.
    """

    def __init__(self, model):
        super().__init__(model)
        self.head, self.cfg = model.bbox_head, model.test_cfg
        self.counts = {'model.test_cfg.nms_pre': self.cfg.get('nms_pre', -1)}
        check_coder(self.head.bbox_coder)
        _check_test_cfg(self.cfg)

    def forward(self, image):
        height, width = image.shape[2:]
        boxes, scores, labels, _ = best_of_levels(self.head, self.maps(image), self.cfg, height, width)
        boxes, scores, labels = self.suppress(boxes, scores, labels, self.cfg)
        return torch.cat([boxes, scores[:, None]], 1), labels


class TwoStage(Detector):
    """Faster, Mask and Cascade R-CNN, with class-specific or class-agnostic boxes.

    Args:
        model: a TwoStageDetector with StandardRoIHead or CascadeRoIHead.

    Raises:
        UserError: an option of the heads cannot be exported.
    """

    def __init__(self, model):
        super().__init__(model)
        roi = model.roi_head
        self.rpn, self.cfg = model.rpn_head, model.test_cfg
        self.counts = {'model.test_cfg.rpn.nms_pre': self.cfg.rpn.get('nms_pre', -1)}
        self.heads, self.regions = _as_list(roi.bbox_head), _regions(roi.bbox_roi_extractor)
        for head in (self.rpn, *self.heads):
            check_coder(head.bbox_coder)
        for head in self.heads:
            if head.custom_cls_channels or not head.with_reg:
                raise UserError(f'{type(head).__name__} with {type(head.loss_cls).__name__} cannot be exported. The '
                                'head must predict boxes, and a softmax over classes and background')
        for cfg in (self.cfg.rpn, self.cfg.rcnn):
            _check_test_cfg(cfg)
        if roi.with_mask:
            self.outputs = (*Detector.outputs, 'masks')
            self.mask_heads = _as_list(roi.mask_head)
            self.mask_regions = self.regions if roi.share_roi_extractor else _regions(roi.mask_roi_extractor)
            if len({tuple(regions.scales.tolist()) for regions in (*self.regions, *self.mask_regions)}) > 1:
                raise UserError('boxes and masks are pooled from different levels. Set the same featmap_strides in '
                                'bbox_roi_extractor and mask_roi_extractor')

    def forward(self, image):
        height, width = image.shape[2:]
        maps = self.maps(image)
        stacked = self.regions[0].stack(maps)
        boxes, scores = self.classified(stacked, *self.proposals(maps, height, width), height, width)
        classes = scores.shape[1]
        labels = torch.arange(classes, device=scores.device).expand_as(scores).reshape(-1)
        boxes = boxes.expand(-1, classes, 4).reshape(-1, 4)
        boxes, scores, labels = self.suppress(boxes, scores.reshape(-1), labels, self.cfg.rcnn)
        found = torch.cat([boxes, scores[:, None]], 1), labels
        return found if len(self.outputs) == 2 else (*found, self.masks(stacked, boxes, labels))

    def proposals(self, maps, height, width):
        """Boxes (n, 4) of the RPN, and a flag for each: 1 for a real box, 0 for an unused row."""
        cfg = self.cfg.rpn
        boxes, scores, _, levels = best_of_levels(self.rpn, maps, cfg, height, width)
        keep = nms_by_class(boxes, scores, levels, cfg.nms.iou_threshold, -.5, cfg.max_per_img)
        return _append(boxes, 0.)[keep], _append(torch.ones_like(scores), 0.)[keep]

    def classified(self, stacked, boxes, there, height, width):
        """Boxes (n, classes or 1, 4) and scores (n, classes) after all stages. Each stage refines the boxes."""
        total = 0.
        for head, regions in zip(self.heads, self.regions, strict=True):
            scores, deltas = head(regions(stacked, boxes))
            total = total + scores
            deltas = deltas.reshape(len(deltas), -1, 4)
            if head is not self.heads[-1]:
                if not head.reg_class_agnostic:
                    best = scores[:, :-1].argmax(1)
                    deltas = deltas.gather(1, best[:, None, None].expand(-1, 1, 4))
                boxes = decode(head.bbox_coder, boxes, deltas[:, 0], height, width)
        scores = (total / len(self.heads)).softmax(-1)[:, :-1] * there[:, None]
        return decode(self.heads[-1].bbox_coder, boxes[:, None], deltas, height, width), scores

    def masks(self, stacked, boxes, labels):
        """Mean mask probabilities (n, h, w) of all mask heads, for boxes and labels."""
        mean = sum(head(regions(stacked, boxes)).sigmoid()
                   for head, regions in zip(self.mask_heads, self.mask_regions, strict=True)) / len(self.mask_heads)
        if not self.mask_heads[0].class_agnostic:
            mean = mean.gather(1, labels.clamp(min=0)[:, None, None, None].expand(-1, 1, *mean.shape[2:]))
        return mean[:, 0]


def _as_list(module):
    return module if isinstance(module, nn.ModuleList) else nn.ModuleList([module])


def _regions(extractors):
    return nn.ModuleList(map(RegionFeatures, _as_list(extractors)))


def _append(values, last):
    """Append a constant row. The index N from `nms_by_class` selects it."""
    return torch.cat([values, values.new_full((1, *values.shape[1:]), last)])


def _check_test_cfg(cfg):
    if cfg.nms.get('type', 'nms') != 'nms' or cfg.nms.get('class_agnostic'):
        raise UserError(f'the suppression {dict(cfg.nms)} cannot be exported. Only plain nms within each class can')
    if cfg.max_per_img <= 0:
        raise UserError('model.test_cfg does not limit the number of boxes, but an exported file needs a limit. Set '
                        'max_per_img there, for example 1000 for rpn and 100 for rcnn')
