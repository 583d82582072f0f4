"""The parts of a detector or segmentor that are exported, each a function of one image batch."""
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .pooling import replace_adaptive_pooling


class Backbone(nn.Module):
    """The backbone of a model: normalised images (B, 3, H, W) to its maps."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images):
        return tuple(self.backbone(images))


class Neck(Backbone):
    """Backbone and neck of a model: normalised images (B, 3, H, W) to the maps of the neck.

    Raises:
        UserError: the model has no neck.
    """

    def __init__(self, model):
        super().__init__(model)
        if not getattr(model, 'with_neck', False):
            raise UserError('--part neck: this model has none, so it is --part backbone')
        self.neck = model.neck

    def forward(self, images):
        return tuple(self.neck(super().forward(images)))


class Segmentor(nn.Module):
    """mmseg's EncoderDecoder in whole mode: RGB images (B, 3, H, W), 0 to 255, to logits (B, classes, H, W).

    A segmentor that is tested in slide mode gives the logits of one window; windows are put together outside.

    Raises:
        UserError: the model is no EncoderDecoder.
    """

    def __init__(self, model):
        super().__init__()
        if not hasattr(model, 'decode_head'):
            raise UserError('whole models are exported of segmentors alone so far: --part neck or --part backbone')
        self.model = model
        replace_adaptive_pooling(model)
        preprocessor = model.data_preprocessor
        self.register_buffer('mean', preprocessor.mean, persistent=False)
        self.register_buffer('std', preprocessor.std, persistent=False)
        # At test mmseg pads where the preprocessor's test_cfg says so, and not as in training.
        self.divisor = (preprocessor.test_cfg or {}).get('size_divisor')

    def forward(self, images):
        height, width = images.shape[2:]
        x = (images - self.mean) / self.std
        if self.divisor:
            x = F.pad(x, (0, -width % self.divisor, 0, -height % self.divisor))
        logits = self.model.decode_head(self.model.extract_feat(x))
        logits = F.interpolate(logits, x.shape[2:], mode='bilinear', align_corners=self.model.align_corners)
        return logits[:, :, :height, :width]


PARTS = dict(backbone=Backbone, neck=Neck, model=Segmentor)
