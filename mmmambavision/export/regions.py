"""Features of regions, pooled from the level of the pyramid that fits each (Feature Pyramid Networks, equation 1)."""
import torch
import torchvision
from torch import nn

from ..errors import UserError


class RegionFeatures(nn.Module):
    """mmdet's SingleRoIExtractor without a selection of regions by level, which has no size known beforehand.

    The levels become one batch, each filled up to the finest one's size, and RoIAlign's own index into the batch
    chooses the level: each region is pooled once. Filling repeats the last row and column, so that what RoIAlign reads
    up to half a pixel beyond a level's border is what it finds at the border.

    Args:
        extractor: mmdet's.

    Raises:
        UserError: it pools in another way than average RoIAlign.
    """

    def __init__(self, extractor):
        super().__init__()
        layers = extractor.roi_layers
        if type(extractor).__name__ != 'SingleRoIExtractor' or any(
                type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg' for layer in layers):
            raise UserError('only detectors whose regions are pooled by a SingleRoIExtractor with RoIAlign (average) '
                            'are exported')
        self.levels, self.finest = extractor.num_inputs, extractor.finest_scale
        self.size, self.aligned = layers[0].output_size, layers[0].aligned
        self.samples = layers[0].sampling_ratio  # 0: as many as the region's size asks for
        self.register_buffer('scales', torch.tensor([layer.spatial_scale for layer in layers]), False)

    def stack(self, maps):
        """Maps (1, C, H_i, W_i) of the pyramid, finest first, as one batch (levels, C, H_0, W_0)."""
        height, width = maps[0].shape[2:]
        filled = [maps[0]]
        for one in maps[1:self.levels]:
            rows, columns = (torch.arange(target, device=one.device).clamp(max=own - 1)
                             for target, own in zip((height, width), one.shape[2:]))
            filled.append(one.index_select(2, rows).index_select(3, columns))
        return torch.cat(filled)

    def forward(self, stacked, boxes):
        """Features (N, C, *size) of boxes (N, 4) in pixels of the image."""
        sides = boxes[:, 2:] - boxes[:, :2]
        level = torch.floor(torch.log2((sides[:, 0] * sides[:, 1]).sqrt() / self.finest + 1e-6))
        level = level.clamp(0, self.levels - 1)
        scale = self.scales[level.long()]
        regions = torch.cat([level[:, None], boxes * scale[:, None]], 1)
        return torchvision.ops.roi_align(stacked, regions, self.size, 1., self.samples, self.aligned)
