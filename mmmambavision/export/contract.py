"""Metadata of an exported file: classes, resizing and post-processing, for programs without PyTorch."""
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
        task: 'detection' or 'segmentation'.
        resize: dict(scale=[width, height], keep_ratio=bool); None for no resizing; unset if the test pipeline has
            other steps than resizing.
        mask_threshold: for detectors, the minimum probability of a mask pixel.
        align_corners: for segmentors, the option for the interpolation of logits.
        binary_threshold: for segmentors with one logit, the minimum probability of the class.
        window: for segmentors in slide mode, dict(crop=[height, width], stride=[height, width]); None for whole images.
        mean: in slide mode, the padding value around windows.
        size_divisor: in slide mode, the divisor of the padded sides of a window, or None.
    """
    part: str
    classes: list[str] = UNSET
    palette: list[list[int]] = UNSET
    task: str = UNSET
    resize: dict[str, Any] | None = UNSET
    mask_threshold: float | None = UNSET
    align_corners: bool = UNSET
    binary_threshold: float | None = UNSET
    window: dict[str, Any] | None = UNSET
    mean: list[float] = UNSET
    size_divisor: int | None = UNSET

    @classmethod
    def describe(cls, model: Any, part: str, pipeline: Sequence[Any]) -> 'Contract':
        """Create the contract for a part of a model.

        Args:
            model: model of mmdet or mmseg with the attributes `cfg` and `dataset_meta`.
            part: 'model', 'neck' or 'backbone'.
            pipeline: test pipeline of the config.
        """
        fields: dict[str, Any] = {key: list(model.dataset_meta.get(key) or []) for key in ('classes', 'palette')}
        if part == 'model':
            fields.update(_resize(pipeline))
            fields.update(_segmentor(model) if hasattr(model, 'decode_head') else dict(
                task='detection', mask_threshold=model.test_cfg.get('rcnn', {}).get('mask_thr_binary')))
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
        """Read the contract of an ONNX Runtime session. Returns None if another program wrote the file."""
        properties = session.get_modelmeta().custom_metadata_map
        if 'part' not in properties:
            return None
        return cls(**{key: json.loads(properties[key]) for key in cls.__dataclass_fields__ if key in properties})


def _resize(pipeline: Sequence[Any]) -> dict[str, Any]:
    steps = [step for step in pipeline if step.type not in OTHER_STEPS]
    if not steps or [(step.type, step.get('scale_factor')) for step in steps] == [('Resize', 1.)]:
        return dict(resize=None)
    if len(steps) == 1 and steps[0].type == 'Resize' and 'scale' in steps[0]:
        return dict(resize=dict(scale=list(steps[0].scale), keep_ratio=steps[0].get('keep_ratio', False)))
    return {}


def _segmentor(model: Any) -> dict[str, Any]:
    fields = dict(task='segmentation', align_corners=model.align_corners, window=None,
                  binary_threshold=model.decode_head.threshold)
    if model.test_cfg.get('mode') == 'slide':
        settings = model.cfg.model.data_preprocessor
        fields.update(window=dict(crop=list(model.test_cfg.crop_size), stride=list(model.test_cfg.stride)),
                      mean=list(settings.get('mean') or (0., 0., 0.)),
                      size_divisor=(settings.get('test_cfg') or {}).get('size_divisor'))
    return fields
