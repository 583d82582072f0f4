"""Exportable parts of a detector or segmentor, each a function of an image batch."""
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError


class Backbone(nn.Module):
    """The backbone of a model: normalised images (B, 3, H, W) to its maps.

    Raises:
        UserError: the model has no attribute `backbone`.
    """
    any_batch, outputs = True, None

    def __init__(self, model):
        super().__init__()
        if not hasattr(model, 'backbone'):
            raise UserError(f'a {type(model).__name__} has no backbone to export. Use a detector or segmentor')
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
            raise UserError('this model has no neck to export. Export its backbone', 'part_backbone')
        self.neck = model.neck

    def forward(self, images):
        return tuple(self.neck(super().forward(images)))


class Preprocessor(nn.Module):
    """Normalisation and padding of the data preprocessor of mmdet, mmseg or mmpretrain.

    RGB images (B, 3, H, W), 0 to 255, to the network's input (B, 3, H', W'), padded at the right and bottom.

    Args:
        settings: the config's data_preprocessor.
        divisor: H' and W' are multiples of it; None for no padding.
        value: padding value, after normalisation.
    """

    def __init__(self, settings, divisor, value):
        super().__init__()
        self.divisor, self.value = divisor or 1, value
        self.takes_bgr = not any(map(settings.get, ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')))  # mmcv loads BGR
        for name, default in (('mean', (0.,) * 3), ('std', (1.,) * 3)):
            numbers = torch.tensor(settings.get(name) or default)
            self.register_buffer(name, numbers[:, None, None], persistent=False)

    def forward(self, images):
        height, width = images.shape[2:]
        x = ((images.flip(1) if self.takes_bgr else images) - self.mean) / self.std
        return x if self.divisor == 1 else F.pad(
            x, (0, -width % self.divisor, 0, -height % self.divisor), value=self.value)


def classifies(model):
    """Whether a model is a classifier of mmpretrain."""
    return getattr(model, 'cfg', {}).get('default_scope') == 'mmpretrain'


def whole(model):
    """The whole detector, segmentor or classifier, as a function of images without normalisation.

    Raises:
        UserError: this type of model cannot be exported.
    """
    if hasattr(model, 'decode_head'):
        from .segmentor import Segmentor
        return Segmentor(model)
    if classifies(model):
        from .classifier import Classifier
        return Classifier(model)
    if hasattr(model, 'panoptic_fusion_head'):
        from .mask_queries import MaskQueries
        return MaskQueries(model)
    from .detector import detector
    return detector(model)


PARTS = dict(model=whole, neck=Neck, backbone=Backbone)
