"""mmseg's EncoderDecoder as a function of images."""
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .deformable import prepare_mask2former
from .parts import Preprocessor


class Segmentor(nn.Module):
    """RGB images (B, 3, H, W), 0 to 255, to logits (B, classes, H, W).

    In slide mode, these are the logits of one window. The windows are cut and merged outside of the graph, because the
    graph would need a loop.

    Args:
        model: an EncoderDecoder with its config as `cfg`. Its head must return logits from `forward`, as UPerHead,
            FCNHead and SegformerHead do, or be mmseg's Mask2FormerHead. Parts of it are replaced, and the model still
            works in mmseg.

    Raises:
        UserError: the model is of another type.
    """
    outputs = ('logits',)
    any_batch = True

    def __init__(self, model):
        super().__init__()
        head = model.decode_head
        # If the head uses mmseg's own `predict`, then `forward` returns logits.
        predicts = [kind.__name__ for kind in type(head).__mro__ if 'predict' in vars(kind)]
        self.with_queries = type(head).__name__ == 'Mask2FormerHead' and type(
            head.pixel_decoder).__name__ == 'MSDeformAttnPixelDecoder'
        if predicts[:1] != ['BaseDecodeHead'] and not self.with_queries:
            raise UserError(f'a {type(model).__name__} with {type(head).__name__} cannot be exported whole; only an '
                            'EncoderDecoder with Mask2FormerHead or one head of logits can. Export its backbone',
                            'part_backbone')
        settings = model.cfg.model.data_preprocessor
        test_cfg = settings.get('test_cfg') or {}  # in tests, mmseg pads only with this setting
        if test_cfg.get('size'):
            raise UserError('data_preprocessor.test_cfg pads to one size, but an exported file takes any size. Set '
                            'model.data_preprocessor.test_cfg.size=None')
        self.preprocess = Preprocessor(settings, test_cfg.get('size_divisor'), settings.get('pad_val', 0))
        self.backbone, self.neck, self.head = model.backbone, model.neck if model.with_neck else nn.Identity(), head
        replace_adaptive_pooling(head)
        if self.with_queries:
            prepare_mask2former(head)

    def forward(self, images):
        height, width = images.shape[2:]
        x = self.preprocess(images)
        maps = self.neck(self.backbone(x))
        if self.with_queries:
            scores, masks = (values[-1] for values in self.head(maps, None))
            masks = F.interpolate(masks, x.shape[2:], mode='bilinear', align_corners=False).sigmoid()
            logits = torch.einsum('bqc,bqhw->bchw', scores.softmax(-1)[..., :-1], masks)
        else:
            logits = F.interpolate(
                self.head(maps), x.shape[2:], mode='bilinear', align_corners=self.head.align_corners)
        return logits[:, :, :height, :width]


class AdaptiveAvgPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, (B, C, H, W) to (B, C, *size)."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        rows, columns = (_average(length, bins, x) for length, bins in zip(x.shape[2:], self.size))
        return rows @ x @ columns.T


def _average(length, bins, like):
    """Averaging matrix (bins, length). As in torch, bin i of k covers [floor(i n / k), ceil((i + 1) n / k))."""
    bin = torch.arange(bins, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    inside = (place >= bin * length // bins) & (place < ((bin + 1) * length + bins - 1) // bins)
    inside = inside.to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def replace_adaptive_pooling(module):
    """Replace every `nn.AdaptiveAvgPool2d` in a module by `AdaptiveAvgPool`."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size = child.output_size
            setattr(module, name, AdaptiveAvgPool((size, size) if isinstance(size, int) else size))
        else:
            replace_adaptive_pooling(child)
