"""Boxes and features of regions beside mmdet's."""
import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, DistancePointBBoxCoder

from mmmambavision.errors import UserError
from mmmambavision.export.boxes import RegionFeatures, check_coder, decode


def boxes_in(height, width, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values * torch.tensor([width, height])
    return corners.flatten(1)


def test_decode():
    coder = DeltaXYWHBBoxCoder((0., .1, 0., -.1), (.1, .1, .2, .2))
    boxes, deltas = boxes_in(90, 120, 50), 12 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    expected = coder.decode(boxes, deltas, max_shape=(90, 120))
    torch.testing.assert_close(decode(coder, boxes, deltas, 90, 120), expected, atol=1e-4, rtol=1e-6)
    assert (expected == 120).any() and (expected == 0).any()  # clipped at every side
    per_class = decode(coder, boxes[:, None], deltas.reshape(50, 1, 4).repeat(1, 3, 1), 90, 120)
    torch.testing.assert_close(per_class, expected[:, None].repeat(1, 3, 1), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize('options', [dict(clip_border=False), dict(add_ctr_clamp=True)])
def test_coders_that_are_refused(options):
    with pytest.raises(UserError, match='DeltaXYWHBBoxCoder'):
        check_coder(DeltaXYWHBBoxCoder(**options))
    check_coder(DeltaXYWHBBoxCoder())


def test_distances():
    """From points and from the centres of anchors."""
    generator = torch.Generator().manual_seed(2)
    coder, boxes = DistancePointBBoxCoder(), boxes_in(90, 120, 50)
    centres, distances = (boxes[:, :2] + boxes[:, 2:]) / 2, 40 * torch.rand(50, 4, generator=generator)
    expected = coder.decode(centres, distances.clone(), max_shape=(90, 120))
    assert (expected == 120).any() and (expected == 0).any()
    for priors in (centres, boxes):
        assert torch.equal(decode(coder, priors, distances, 90, 120), expected)


@pytest.mark.parametrize('layer', [dict(sampling_ratio=0), dict(sampling_ratio=2), dict(aligned=False)])
@pytest.mark.parametrize('strides', [(4, 8, 16, 32), (8,)])
def test_regions(layer, strides):
    """Regions of all sizes, reaching to the last pixel."""
    height, width = 480, 640
    extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=7, **layer), 6, strides)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 6, height // stride, width // stride, generator=generator) for stride in strides]
    boxes = torch.cat([boxes_in(height, width, 60), boxes_in(height, width, 60, 1) * .2,
                       torch.tensor([[0., 0, width, height], [width - 9., 0, width, height], [0, 0, 0, 0],
                                     [3, height - 100, width, height], [8, 8, 8, 30]])])
    features = RegionFeatures(extractor)
    found = features(features.stack(maps), boxes)
    expected = extractor(maps, torch.cat([torch.zeros(len(boxes), 1), boxes], 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if len(strides) > 1:
        assert set(extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], 1), 4).tolist()) == {0, 1, 2, 3}


def test_extractors_that_are_refused():
    with pytest.raises(UserError, match='SingleRoIExtractor'):
        RegionFeatures(GenericRoIExtractor(roi_layer=dict(type='RoIAlign', output_size=7), out_channels=4,
                                           featmap_strides=[4]))
    with pytest.raises(UserError, match='RoIAlign'):
        RegionFeatures(SingleRoIExtractor(dict(type='RoIAlign', output_size=7, pool_mode='max'), 4, [4]))
