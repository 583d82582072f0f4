"""The parts of a detector or segmentor that are exported, each a function of one image batch."""
from torch import nn

from ..errors import UserError


class Backbone(nn.Module):
    """The backbone of a model: normalised images (B, 3, H, W) to its maps.

    Raises:
        UserError: the model has none as a part of its own.
    """
    any_batch, outputs = True, None

    def __init__(self, model):
        super().__init__()
        if not hasattr(model, 'backbone'):
            raise UserError(f'a {type(model).__name__} has no backbone to export: detectors and segmentors have one')
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
            raise UserError('this model has no neck to export; export its backbone', 'part_backbone')
        self.neck = model.neck

    def forward(self, images):
        return tuple(self.neck(super().forward(images)))


def whole(model):
    """The detector or segmentor itself, as a function of images as loaded.

    Raises:
        UserError: it is of a kind that is not exported.
    """
    if hasattr(model, 'decode_head'):
        from .segmentor import Segmentor
        return Segmentor(model)
    from .detector import detector
    return detector(model)


PARTS = dict(model=whole, neck=Neck, backbone=Backbone)
