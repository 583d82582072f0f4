"""Backbones by short name, with random weights: MambaVision and the backbones in its published tables."""
import timm
from mmdet.models.backbones import ResNet, ResNeXt, SwinTransformer
from torch import nn

from mmmambavision import MambaVision
from mmmambavision.errors import UserError

from .names import parse


class Timm(nn.Module):
    """Maps of a timm model with strides 4 to 32."""

    def __init__(self, name):
        super().__init__()
        self.model = timm.create_model(name, features_only=True)

    def forward(self, x):
        return tuple(self.model(x))


class DeiT(nn.Module):
    """DeiT-S/16 with a pyramid of maps of strides 4 to 32, as in XCiT (arXiv 2106.09681, section 4).

    The maps are made from the outputs of blocks 3, 6, 9 and 12, by two, one and no transposed convolutions of stride 2,
    and a pooling.
    """

    def __init__(self, dim=384):
        super().__init__()
        self.model = timm.create_model('deit_small_patch16_224', dynamic_img_size=True, num_classes=0)
        self.scale = nn.ModuleList([
            nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2), nn.BatchNorm2d(dim), nn.GELU(),
                          nn.ConvTranspose2d(dim, dim, 2, 2)),
            nn.ConvTranspose2d(dim, dim, 2, 2), nn.Identity(), nn.MaxPool2d(2)])

    def forward(self, x):
        maps = self.model.forward_intermediates(x, indices=[2, 5, 8, 11], intermediates_only=True)
        return tuple(scale(m) for scale, m in zip(self.scale, maps))


def _swin(dim, depths, heads):
    return lambda: SwinTransformer(embed_dims=dim, depths=depths, num_heads=heads, drop_path_rate=.2)


def _resnext(groups):
    return lambda: ResNeXt(depth=101, groups=groups, base_width=4)


def _mambavision(arch, window_size):
    return lambda **options: MambaVision(**{'arch': arch, 'window_size': window_size, **options})


BACKBONES = {
    'resnet50': lambda: ResNet(depth=50),
    'resnext101-32x4d': _resnext(32), 'resnext101-64x4d': _resnext(64),
    'swin-t': _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)), 'swin-s': _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    'swin-b': _swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    **{f'convnext-{short}': lambda name=name: Timm(f'convnext_{name}') for short, name in
       (('t', 'tiny'), ('s', 'small'), ('b', 'base'))},
    'deit-s': DeiT,
    **{f'mambavision-{short}{suffix}': _mambavision(arch, window) for short, arch in
       (('t', 'tiny'), ('s', 'small'), ('b', 'base')) for suffix, window in (
           ('', None), ('-padded', (112, 56)), ('-balanced', ('balanced', 32)))},
}

# Published Cascade Mask R-CNN on COCO at 1280x800 (arXiv 2407.08083, table 4): parameters M, FLOPs G, box AP, mask AP.
PUBLISHED = {
    'deit-s': (80, 889, 48.0, 41.4), 'resnet50': (82, 739, 46.3, 40.1), 'swin-t': (86, 745, 50.4, 43.7),
    'convnext-t': (86, 741, 50.4, 43.7), 'mambavision-t': (86, 740, 51.1, 44.3),
    'resnext101-32x4d': (101, 819, 48.1, 41.6), 'swin-s': (107, 838, 51.9, 45.0),
    'convnext-s': (108, 827, 51.9, 45.0), 'mambavision-s': (108, 828, 52.3, 45.2),
    'resnext101-64x4d': (140, 972, 48.3, 41.7), 'swin-b': (145, 982, 51.9, 45.0), 'convnext-b': (146, 964, 52.7, 45.6),
    'mambavision-b': (145, 964, 52.8, 45.7),
}


def published_box_ap(text):
    """Published box AP of a backbone. MambaVision with whole-map windows uses the value for padded windows."""
    return PUBLISHED.get(text.removesuffix('-padded'), (None, None, None, None))[2]


def build(text):
    """A backbone by name and options, in eval mode."""
    name, options = parse(text)
    try:
        backbone = BACKBONES[name](**options)
    except TypeError as error:
        raise UserError(f"'{text}': {error}") from None
    backbone.eval()
    return backbone
