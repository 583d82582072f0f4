"""Metadata of an exported file: classes, resizing and post-processing, for programs without PyTorch."""
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .dense import predicts_masks
from .parts import classifies

OTHER_STEPS = {'LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs'}
UNSET: Any = ...  # value of a field that does not apply to a file and is not written


@dataclass(frozen=True)
class Contract:
    """The contents of a file's metadata_props, one JSON value per field.

    `describe` creates it, `properties` writes it and `of_session` reads it. `tools/predict_onnx.py` has a copy of the
    reader, because it runs without this package.

    Attributes:
        part: 'model', 'neck' or 'backbone'. The fields after `palette` are only for whole models.
        classes: class names.
        palette: a colour (red, green, blue) for each class, or an empty list.
        task: 'detection', 'segmentation', 'classification' or 'panoptic' (mmdet's Mask2Former and MaskFormer).
        resize: dict(scale=[width, height], keep_ratio=bool); None for no resizing; unset for other tasks than detection
            and segmentation, and if the test pipeline has other steps than resizing and padding.
        pad: for detectors whose test pipeline pads after resizing, dict(size=[width, height], value=[red, green,
            blue]). The padding is at the right and the bottom.
        mask_threshold: for detectors, the minimum probability of a mask pixel.
        mask_stride: for detectors whose masks are logits of the whole image, the stride of the masks.
        align_corners: for segmentors, the option for the interpolation of logits.
        binary_threshold: for segmentors with one logit, the minimum probability of the class.
        window: for segmentors in slide mode, dict(crop=[height, width], stride=[height, width]); None for whole images.
        mean: in slide mode, the padding value around windows.
        size_divisor: in slide mode, the divisor of the padded sides of a window, or None. In panoptic files, the
            divisor of the padded sides of the image.
    """
    part: str
    classes: list[str] = UNSET
    palette: list[list[int]] = UNSET
    task: str = UNSET
    resize: dict[str, Any] | None = UNSET
    pad: dict[str, Any] = UNSET
    mask_threshold: float | None = UNSET
    mask_stride: int = UNSET
    align_corners: bool = UNSET
    binary_threshold: float | None = UNSET
    window: dict[str, Any] | None = UNSET
    mean: list[float] = UNSET
    size_divisor: int | None = UNSET

    @classmethod
    def describe(cls, model: Any, part: str, pipeline: Sequence[Any]) -> 'Contract':
        """Create the contract for a part of a model.

        Args:
            model: model of mmdet, mmseg or mmpretrain with the attributes `cfg` and `dataset_meta`.
            part: 'model', 'neck' or 'backbone'.
            pipeline: test pipeline of the config.
        """
        fields: dict[str, Any] = {key: list(model.dataset_meta.get(key) or []) for key in ('classes', 'palette')}
        if part == 'model':
            if classifies(model):
                return cls(part, **fields, task='classification')
            if hasattr(model, 'panoptic_fusion_head'):
                divisor = model.cfg.model.data_preprocessor.get('pad_size_divisor') or 1
                return cls(part, **fields, task='panoptic', size_divisor=divisor)
            segments = hasattr(model, 'decode_head')
            fields.update(_resize(pipeline, may_pad=not segments))
            fields.update(_segmentor(model) if segments else _detector(model))
        return cls(part, **fields)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are set."""
        return {key: value for key, value in asdict(self).items() if value is not UNSET}

    @property
    def properties(self) -> dict[str, str]:
        """The fields as metadata_props."""
        return {key: json.dumps(value) for key, value in self.fields.items()}

    @classmethod
    def of_session(cls, session: Any) -> 'Contract | None':
        """Read the contract of a session. Returns None if another program wrote the file."""
        properties = session.get_modelmeta().custom_metadata_map
        if 'part' not in properties:
            return None
        return cls(**{key: json.loads(properties[key]) for key in cls.__dataclass_fields__ if key in properties})


def _resize(pipeline: Sequence[Any], may_pad: bool) -> dict[str, Any]:
    steps = [step for step in pipeline if step.type not in OTHER_STEPS]
    pad = {}
    if may_pad and steps and steps[-1].type == 'Pad' and steps[-1].keys() <= {'type', 'size', 'pad_val'}:
        step = steps.pop()
        value = step.get('pad_val', 0)
        value = value.get('img', 0) if isinstance(value, dict) else value
        pad = dict(pad=dict(size=list(step.size), value=[value] * 3 if isinstance(value, (int, float)) else
                            list(value)[::-1]))  # mmcv pads BGR images
    if not steps or [(step.type, step.get('scale_factor')) for step in steps] == [('Resize', 1.)]:
        return dict(resize=None, **pad)
    if len(steps) == 1 and steps[0].type == 'Resize' and 'scale' in steps[0]:
        return dict(resize=dict(scale=list(steps[0].scale), keep_ratio=steps[0].get('keep_ratio', False)), **pad)
    return {}


def _detector(model: Any) -> dict[str, Any]:
    cfg = model.test_cfg.get('rcnn', model.test_cfg)
    fields: dict[str, Any] = dict(task='detection', mask_threshold=cfg.get('mask_thr_binary'))
    head = getattr(model, 'bbox_head', None)
    if head is not None and predicts_masks(head):
        fields.update(mask_stride=head.prior_generator.strides[0][0])
    return fields


def _segmentor(model: Any) -> dict[str, Any]:
    fields = dict(task='segmentation', align_corners=model.align_corners, window=None,
                  binary_threshold=getattr(model.decode_head, 'threshold', None))
    if model.test_cfg.get('mode') == 'slide':
        settings = model.cfg.model.data_preprocessor
        fields.update(window=dict(crop=list(model.test_cfg.crop_size), stride=list(model.test_cfg.stride)),
                      mean=list(settings.get('mean') or (0., 0., 0.)),
                      size_divisor=(settings.get('test_cfg') or {}).get('size_divisor'))
    return fields
