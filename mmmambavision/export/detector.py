"""mmdet's detectors as functions of one image, with fixed output sizes."""
import math

import torch
from torch import nn

from ..errors import UserError
from .boxes import RegionFeatures, check_coder, decode, nms_by_class
from .deformable import centres, proposals, replace_attention, sides
from .dense import best_of_levels, dynamic_masks, is_dense, predicts_masks
from .parts import Preprocessor

SINGLE_MAP = ('DETR', 'ConditionalDETR', 'DABDETR')
QUERY_MODELS = ('DINO', 'DeformableDETR', *SINGLE_MAP)
TWOFOLD = ('CSPNeXtPAFPN', 'YOLOXPAFPN')  # necks that upsample each map by exactly 2


def detector(model):
    """The export module for a model of mmdet.

    Raises:
        UserError: the model cannot be exported.
    """
    roi_head, bbox_head = (getattr(model, name, None) for name in ('roi_head', 'bbox_head'))
    with_masks = getattr(model, 'mask_head', None) is not None  # YOLACT, SOLO and CondInst
    if roi_head is None and bbox_head is not None and is_dense(bbox_head) and not with_masks:
        return OneStage(model)
    if type(roi_head).__name__ in ('StandardRoIHead', 'CascadeRoIHead') and not (
            roi_head.with_shared_head or getattr(model, 'with_semantic_head', False)):
        return TwoStage(model)
    if type(model).__name__ in QUERY_MODELS:
        return Queries(model)
    # Wrappers for test-time augmentation have neither head.
    head = next((f' with {type(head).__name__}' for head in (roi_head, bbox_head) if head is not None), '')
    raise UserError(f'a {type(model).__name__}{head} cannot be exported whole; Faster, Mask and Cascade R-CNN, '
                    'RetinaNet, ATSS, FCOS, GFL, RTMDet, RTMDet-Ins, DETR, DINO, Mask2Former, segmentors and '
                    'classifiers can. Export its backbone or neck', 'part')


class Detector(nn.Module):
    """RGB image (1, 3, H, W), 0 to 255, to dets (n, 5), labels (n) and, with masks, masks or mask_logits (n, h, w).

    dets are corners in pixels and scores, best first. n is the maximum number of detections in the config. Unused rows
    have the label -1. masks are probabilities inside the boxes. mask_logits are of the whole padded image, with a
    stride.

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
        divisor = settings.get('pad_size_divisor') or 1
        if type(getattr(model, 'neck', None)).__name__ in TWOFOLD:  # mmdet fails unless the sides are multiples
            divisor = math.lcm(divisor, *model.bbox_head.prior_generator.strides[-1])
        self.preprocess = Preprocessor(settings, divisor, settings.get('pad_value', 0))
        self.backbone, self.neck = model.backbone, model.neck if model.with_neck else nn.Identity()

    def maps(self, image):
        return self.neck(self.backbone(self.preprocess(image)))

    @staticmethod
    def suppress(cfg, threshold, boxes, scores, labels, *others):
        """The boxes, scores, labels and other values that a test_cfg keeps.

        Unused rows have an empty box, score 0, label -1 and other values 0.
        """
        keep = nms_by_class(boxes, scores, labels, cfg.nms, threshold, cfg.max_per_img)
        kept = (_append(values, 0)[keep] for values in (boxes, scores, *others))
        return next(kept), next(kept), _append(labels, -1)[keep], *kept


class OneStage(Detector):
    """A detector with a dense head: RetinaNet, ATSS, FCOS, GFL, RTMDet, RTMDet-Ins and others.

    Args:
        model: a SingleStageDetector with a head that `is_dense`.

    Raises:
        UserError: an option of the head cannot be exported.
    """

    def __init__(self, model):
        super().__init__(model)
        self.head, self.cfg = model.bbox_head, model.test_cfg
        self.counts = {'model.test_cfg.nms_pre': self.cfg.get('nms_pre', -1)}
        check_coder(self.head.bbox_coder)
        _check_test_cfg(self.cfg)
        if predicts_masks(self.head):
            self.outputs = (*Detector.outputs, 'mask_logits')

    def forward(self, image):
        outputs = self.head(self.maps(image))
        boxes, scores, labels, levels, priors, *others = best_of_levels(
            self.head, outputs[:3], self.cfg, *image.shape[2:])
        threshold, with_masks = self.cfg.get('score_thr', 0.), len(self.outputs) > 2
        if others and not with_masks:  # the quality of a box (centerness, IoU) changes the scores above the threshold
            scores = torch.where(scores > threshold, scores * others.pop()[:, 0].sigmoid(), -1.)
            threshold = -.5
        if not with_masks:
            boxes, scores, labels = self.suppress(self.cfg, threshold, boxes, scores, labels)
            return torch.cat([boxes, scores[:, None]], 1), labels
        strides = scores.new_tensor([width for width, _ in self.head.prior_generator.strides])[levels]
        boxes, scores, labels, *chosen = self.suppress(
            self.cfg, threshold, boxes, scores, labels, *others, priors, strides)
        chosen[2] = chosen[2].clamp(min=1)  # 0 in unused rows
        return torch.cat([boxes, scores[:, None]], 1), labels, dynamic_masks(self.head, outputs[3], *chosen)


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
            if not head.with_reg:
                raise UserError(f'{type(head).__name__} cannot be exported, because it predicts no boxes')
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
        boxes, scores, labels = self.suppress(
            self.cfg.rcnn, self.cfg.rcnn.get('score_thr', 0.), boxes, scores.reshape(-1), labels)
        found = torch.cat([boxes, scores[:, None]], 1), labels
        return found if len(self.outputs) == 2 else (*found, self.masks(stacked, boxes, labels))

    def proposals(self, maps, height, width):
        """Boxes (n, 4) of the RPN, and a flag for each: 1 for a real box, 0 for an unused row."""
        cfg = self.cfg.rpn
        boxes, scores, _, levels, _ = best_of_levels(self.rpn, self.rpn(maps), cfg, height, width)
        keep = nms_by_class(boxes, scores, levels, cfg.nms, -.5, cfg.max_per_img)
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
                    if head.custom_activation:
                        scores = head.loss_cls.get_activation(scores)
                    best = scores[:, :-1].argmax(1)
                    deltas = deltas.gather(1, best[:, None, None].expand(-1, 1, 4))
                boxes = decode(head.bbox_coder, boxes, deltas[:, 0], height, width)
        scores = total / len(self.heads)
        # Seesaw and others have their own function from outputs to probabilities
        scores = head.loss_cls.get_activation(scores) if head.custom_cls_channels else scores.softmax(-1)
        scores = scores[:, :-1] * there[:, None]
        return decode(head.bbox_coder, boxes[:, None], deltas, height, width), scores

    def masks(self, stacked, boxes, labels):
        """Mean mask probabilities (n, h, w) of all mask heads, for boxes and labels."""
        total = 0.
        for head, regions in zip(self.mask_heads, self.mask_regions, strict=True):
            logits = head(regions(stacked, boxes))
            if not head.class_agnostic:
                logits = logits.gather(1, labels.clamp(min=0)[:, None, None, None].expand(-1, 1, *logits.shape[2:]))
            total = total + logits.sigmoid()
        return total[:, 0] / len(self.mask_heads)


class Queries(Detector):
    """DETR, Conditional DETR and DAB-DETR, which use one map, and DINO and Deformable DETR, which use several.

    Args:
        model: a model of mmdet. Deformable attention in it is replaced. The model still works in mmdet.

    Raises:
        UserError: an option of the model cannot be exported.
    """

    def __init__(self, model):
        super().__init__(model)
        if self.preprocess.divisor != 1:
            raise UserError(f'a {type(model).__name__} cannot be exported with padding, because its attention would '
                            'need a mask. Set model.data_preprocessor.pad_size_divisor=1')
        self.decode = self.decode_one_map
        if type(model).__name__ not in SINGLE_MAP:
            self.decode = self.decode_maps
            replace_attention(model)
            model.gen_encoder_output_proposals = lambda memory, mask, sizes: proposals(model, memory, sizes)
        self.model, self.head, self.count = model, model.bbox_head, model.test_cfg.get('max_per_img', model.num_queries)
        self.counts = {'model.num_queries': model.num_queries, 'model.test_cfg.max_per_img': self.count}

    def decode_one_map(self, maps):
        """The arguments of the head, from one map in a list. There is no padding, so there are no masks."""
        model, features = self.model, maps[-1]
        positions = model.positional_encoding(None, input=features).flatten(2).transpose(1, 2)
        memory = model.forward_encoder(features.flatten(2).transpose(1, 2), None, positions)
        inputs, others = model.pre_decoder(**memory)
        return model.forward_decoder(**inputs, memory_mask=None, memory_pos=positions) | others

    def decode_maps(self, maps):
        """The arguments of the head, from several maps and deformable attention."""
        model, sizes = self.model, [one.shape[2:] for one in maps]
        sequence = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)
        positions = torch.cat([
            model.positional_encoding(None, input=one).flatten(2).transpose(1, 2) + model.level_embed[level]
            for level, one in enumerate(maps)], 1)
        points = centres(sizes, sequence)[None, :, None].expand(-1, -1, len(maps), -1)
        for layer in model.encoder.layers:
            sequence = layer(query=sequence, query_pos=positions, key_padding_mask=None, spatial_shapes=sizes,
                             reference_points=points)
        inputs, _ = model.pre_decoder(sequence, None, sizes)
        return model.forward_decoder(
            **inputs, memory_mask=None, spatial_shapes=sizes, level_start_index=None,
            valid_ratios=sequence.new_ones(1, len(maps), 2))

    def forward(self, image):
        states = self.decode(self.maps(image))
        scores, boxes = (values[-1, 0] for values in self.head(**states))
        classes = self.head.num_classes
        if self.head.loss_cls.use_sigmoid:
            scores, place = scores.sigmoid().flatten().topk(self.count)
            boxes, labels = boxes[place // classes], place % classes
        else:
            scores, labels = scores.softmax(-1)[:, :-1].max(-1)
            scores, place = scores.topk(self.count)
            boxes, labels = boxes[place], labels[place]
        height, width = image.shape[2:]
        limits = sides(width, height, boxes)
        corners = ((boxes[:, :2] + sign * .5 * boxes[:, 2:]) * limits for sign in (-1, 1))
        boxes = [torch.minimum(corner.clamp(min=0), limits) for corner in corners]
        return torch.cat([*boxes, scores[:, None]], 1), labels


def _as_list(module):
    return module if isinstance(module, nn.ModuleList) else nn.ModuleList([module])


def _regions(extractors):
    return nn.ModuleList(map(RegionFeatures, _as_list(extractors)))


def _append(values, last):
    """Append a constant row. The index N from `nms_by_class` selects it."""
    return torch.cat([values, values.new_full((1, *values.shape[1:]), last)])


def _check_test_cfg(cfg):
    if cfg.nms.get('type', 'nms') != 'nms':
        raise UserError(f"the suppression {cfg.nms.type} cannot be exported, because ONNX's NonMaxSuppression keeps or "
                        'drops a box and never changes its score. Set nms.type=nms')
    if cfg.max_per_img <= 0:
        raise UserError('model.test_cfg does not limit the number of boxes, but an exported file needs a limit. Set '
                        'max_per_img there, for example 1000 for rpn and 100 for rcnn')
