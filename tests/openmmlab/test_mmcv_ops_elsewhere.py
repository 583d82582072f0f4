"""mmcv's operators of upsampling, segmentation and rotated boxes, against definitions in float64 and compiled mmcv."""
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmambavision.openmmlab import mmcv_ops

from ..helpers.compare import GOLDEN, check, check_gradients

mmcv_ops.install()
ops = pytest.importorskip('mmcv.ops', exc_type=ImportError)
STAND_IN = sys.modules['mmcv._ext'].nms.__module__.startswith('mmmambavision')
stand_in = pytest.mark.skipif(not STAND_IN, reason='compiled mmcv has it only for GPUs')


RECORDED = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / 'mmcv_ops_rotated.npz').items()}


def recorded(name):
    """The tensors NAME/0, NAME/1, ... that mmcv 2.1.0's compiled operators took and returned."""
    return [RECORDED[f'{name}/{i}'].clone() for i in range(8) if f'{name}/{i}' in RECORDED]


def check_recorded(function, inputs, output, output_gradient, gradient):
    inputs.requires_grad_()
    result = function(inputs)
    check(result, output)
    check(torch.autograd.grad(result, inputs, output_gradient)[0], gradient)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# CARAFE

def carafe_definition(kernel, groups, scale):
    def upsample(features, masks):
        count, channels, height, width = features.shape
        padded = F.pad(features, [kernel // 2] * 4)
        rows = []
        for y in range(height * scale):
            for x in range(width * scale):
                around = padded[:, :, y // scale:y // scale + kernel, x // scale:x // scale + kernel]
                weights = masks[:, :, y, x].view(count, groups, 1, kernel, kernel)
                rows.append((around.reshape(count, groups, -1, kernel, kernel) * weights).sum((3, 4)).flatten(1))
        return torch.stack(rows, 2).view(count, channels, height * scale, width * scale)
    return upsample


@stand_in
@pytest.mark.parametrize('kernel, groups, scale, size', [(5, 1, 2, (3, 4)), (3, 2, 3, (4, 2)), (1, 4, 1, (2, 2))])
def test_carafe(kernel, groups, scale, size):
    features = torch.randn(2, 8, *size)
    masks = torch.randn(2, kernel ** 2 * groups, size[0] * scale, size[1] * scale)
    definition = carafe_definition(kernel, groups, scale)
    check_gradients(lambda x, m: ops.carafe(x, m, kernel, groups, scale), definition, [features, masks])
    check(ops.carafe_naive(features, masks, kernel, groups, scale), definition(features.double(), masks.double()))


@stand_in
def test_carafe_gradients_in_float64():
    features, masks = torch.rand(2, 8, 3, 3).double().requires_grad_(), torch.rand(2, 9, 6, 6).double().requires_grad_()
    torch.autograd.gradcheck(lambda x, m: ops.carafe(x, m, 3, 1, 2), (features, masks))


# PSAMask

def psa_definition(kind, size, mask):
    def place(x):
        height, width = size
        found = [[torch.zeros(len(x), dtype=x.dtype)] * (height * width) for _ in range(height * width)]
        for h in range(height):
            for w in range(width):
                for row in range(mask[0]):
                    for column in range(mask[1]):
                        y, z = h + row - (mask[0] - 1) // 2, w + column - (mask[1] - 1) // 2
                        if 0 <= y < height and 0 <= z < width:
                            there, here = y * width + z, h * width + w
                            value = x[:, row * mask[1] + column, h, w]
                            if kind == 'collect':
                                found[there][here] = value
                            else:
                                found[here][there] = value
        return torch.stack([torch.stack(row, 1) for row in found], 1).view(len(x), -1, height, width)
    return place


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size, mask', [((3, 4), (5, 7)), ((4, 2), (3, 3)), ((3, 3), (2, 4))])
def test_psa_mask(kind, size, mask):
    layer = ops.PSAMask(kind, mask)
    check_gradients(layer, psa_definition(kind, size, mask), [torch.randn(2, mask[0] * mask[1], *size)])


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_recorded_psa_mask(kind):
    check_recorded(ops.PSAMask(kind, (5, 3)), *recorded(f'psa_mask/{kind}'))


# Masked convolution

@stand_in
@pytest.mark.parametrize('kernel, padding', [((3, 3), (1, 1)), ((1, 3), (0, 1))])
def test_masked_convolution(kernel, padding):
    """In the mode that counts, at test time, a convolution at the chosen pixels and 0 elsewhere."""
    layer = ops.MaskedConv2d(4, 6, kernel, padding=padding)
    x, mask = torch.randn(1, 4, 5, 7), torch.rand(1, 5, 7) - .5
    with torch.no_grad():
        check(layer(x, mask), F.conv2d(x, layer.weight, layer.bias, padding=padding) * (mask > 0))
        check(layer(x, -torch.ones(1, 5, 7)), torch.zeros(1, 6, 5, 7))


# Active rotating filters

def test_active_rotated_filter():
    out, planes, orientations, rotations = 3, 2, 4, 8
    order = torch.stack([torch.randperm(orientations * 9) for _ in range(rotations)], 1)
    indices = (order + 1).view(orientations, 3, 3, rotations).int()

    def rotate(filters):
        flat = filters.flatten(2)
        copies = [flat[..., order[:, r].argsort()] for r in range(rotations)]  # entry l moves to place order[l, r]
        return torch.stack(copies, 1).view(out * rotations, planes * orientations, 3, 3)

    check_gradients(lambda x: ops.active_rotated_filter(x, indices), rotate,
                    [torch.randn(out, planes, orientations, 3, 3)])


def test_recorded_active_rotated_filter():
    filters, indices, *results = recorded('active_rotated_filter')
    check_recorded(lambda x: ops.active_rotated_filter(x, indices), filters, *results)


# Bilinear samples

def sample(maps, y, x):
    """(C, H, W) at a place -> (C,): zero farther than one pixel outside, the border's value nearer than that."""
    height, width = maps.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return maps.new_zeros(len(maps))
    x, y = (torch.as_tensor(place, dtype=maps.dtype).clamp(0, size - 1) for place, size in ((x, width), (y, height)))
    grid = torch.stack([x * 2 / max(width - 1, 1) - 1, y * 2 / max(height - 1, 1) - 1])
    return F.grid_sample(maps[None], grid[None, None, None], align_corners=True)[0, :, 0, 0]


def pool(maps, rois, size, ratio, place_of):
    """Means of the samples of each bin. place_of(roi index, bin, u, v) -> y, x, where u, v are in bins."""
    results = []
    for r, (image, bins) in enumerate(rois):
        across, down = (ratio or max(math.ceil(length), 0) for length in bins)
        for row in range(size[0]):
            for column in range(size[1]):
                values = [sample(maps[image], *place_of(r, (row, column), column + (j + .5) / across,
                                                        row + (i + .5) / down))
                          for i in range(down) for j in range(across)]
                results.append(sum(values, maps.new_zeros(maps.shape[1])) / max(1, len(values)))
    return torch.stack(results).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('clockwise', [False, True])
@pytest.mark.parametrize('aligned, ratio', [(True, 0), (True, 2), (False, 0)])
def test_roi_align_rotated(aligned, ratio, clockwise):
    maps = torch.randn(2, 3, 9, 7)
    rois = torch.tensor([[0, 8., 9, 12, 8, .3], [1, 3, 2, 20, 5, -2], [1, 40, 40, 6, 6, 1], [0, 10, 12, .5, 3, 0],
                         [0, 12.6, 16.6, 4, 4, math.pi / 2]])
    scale, size = .5, (2, 3)

    def definition(x):
        lengths = rois[:, 3:5].double() * scale
        lengths = lengths if aligned else lengths.clamp(min=1)
        bins = [(int(roi[0]), (w / size[1], h / size[0])) for roi, (w, h) in zip(rois, lengths.tolist())]

        def place(r, _, u, v):
            (w, h), angle = lengths[r].tolist(), rois[r, 5].item() * (-1 if clockwise else 1)
            left, up = w * (u / size[1] - .5), h * (v / size[0] - .5)
            centre = rois[r, 1:3].double() * scale - (.5 if aligned else 0)
            return (centre[1] + up * math.cos(angle) - left * math.sin(angle),
                    centre[0] + up * math.sin(angle) + left * math.cos(angle))

        return pool(x, bins, size, ratio, place)

    check_gradients(lambda x: ops.roi_align_rotated(x, rois, size, scale, ratio, aligned, clockwise), definition,
                    [maps], 2e-5)


@pytest.mark.parametrize('clockwise', [0, 1])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [0, 1])
def test_recorded_roi_align_rotated(aligned, ratio, clockwise):
    rois, = recorded('in/rois')
    check_recorded(lambda x: ops.roi_align_rotated(x, rois, (3, 2), .25, ratio, bool(aligned), bool(clockwise)),
                   *recorded(f'roi_align_rotated/{aligned}{ratio}{clockwise}'))


@pytest.mark.parametrize('points', [1, 5])
def test_recorded_rotated_feature_align(points):
    boxes, = recorded('in/boxes')
    check_recorded(lambda x: ops.rotated_feature_align(x, boxes, .25, points),
                   *recorded(f'rotated_feature_align/{points}'))


@stand_in
def test_samples_in_blocks(monkeypatch):
    """Bins are pooled block by block, and one bin may have more samples than a block should have."""
    from mmmambavision.openmmlab.mmcv_ops import sampled
    maps = torch.randn(1, 3, 30, 30, requires_grad=True)
    rois = torch.tensor([[0, 14., 15, 25, 20, .3], [0, 3, 2, 5, 5, -2], [0, 14., 15, 25, 20, .3]])

    def run():
        output = ops.roi_align_rotated(maps, rois, 3, 1., 0, True, False)
        return output, *torch.autograd.grad(output.sin().sum(), maps)

    whole = run()
    monkeypatch.setattr(sampled, 'SAMPLES_AT_ONCE', 40)
    for got, expected in zip(run(), whole):
        check(got, expected)
    empty = ops.roi_align_rotated(maps, rois[:0], 3, 1., 0, True, False)
    assert empty.shape == (0, 3, 3, 3) and torch.autograd.grad(empty.sum(), maps)[0].abs().max() == 0


def test_roi_align_rotated_refuses_negative_sizes():
    with pytest.raises(RuntimeError, match='negative'):
        ops.roi_align_rotated(torch.randn(1, 1, 4, 4), torch.tensor([[0, 1., 1, -1, 2, 0]]), 2, 1., 0, True, False)


@stand_in
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('with_offset', [True, False])
def test_deform_roi_pool(with_offset, ratio):
    maps, size, scale, gamma = torch.randn(2, 3, 9, 7), (2, 3), .5, .1
    rois = torch.tensor([[0, 2., 3, 12, 14], [1, 1, 1, 9, 4], [1, 30, 30, 40, 40]])
    offset = torch.randn(3, 2, *size)

    def definition(x, offset=None):
        start, end = (rois[:, 1:].double() * scale - .5).split(2, 1)
        lengths = end - start
        bins = [(int(roi[0]), (w / size[1], h / size[0])) for roi, (w, h) in zip(rois, lengths.tolist())]

        def place(r, at, u, v):
            x, y = start[r] + lengths[r] * torch.tensor([u / size[1], v / size[0]])
            if offset is not None:
                x, y = torch.stack([x, y]) + gamma * lengths[r] * offset[r, :, at[0], at[1]]
            return y, x

        return pool(x, bins, size, ratio, place)

    def function(x, offset=None):
        return ops.deform_roi_pool(x, rois, offset, size, scale, ratio, gamma)

    check_gradients(function, definition, [maps, offset] if with_offset else [maps], 2e-5)


@stand_in
def test_modulated_deform_roi_pool_learns_offsets_and_masks():
    layer = ops.ModulatedDeformRoIPoolPack((2, 2), 3, deform_fc_channels=8, spatial_scale=.5)
    output = layer(torch.randn(1, 3, 9, 7), torch.tensor([[0, 2., 3, 12, 14]]))
    plain = ops.deform_roi_pool(torch.zeros(1, 3, 9, 7), torch.tensor([[0, 2., 3, 12, 14]]), None, (2, 2), .5, 0, .1)
    assert output.shape == plain.shape
    output.sum().backward()
    assert layer.offset_fc[-1].weight.grad.abs().max() > 0 and layer.mask_fc[2].weight.grad.abs().max() > 0


@pytest.mark.parametrize('points', [1, 5])
def test_rotated_feature_align(points):
    features, scale = torch.randn(2, 3, 4, 5), .5
    boxes = torch.cat([torch.rand(2, 4, 5, 2) * 9, torch.rand(2, 4, 5, 2) * 6, torch.randn(2, 4, 5, 1)], -1)

    def definition(x):
        rows = []
        for n in range(2):
            for h in range(4):
                for w in range(5):
                    y, z, width, height, angle = boxes[n, h, w].double().tolist()
                    cos, sin = math.cos(angle), math.sin(angle)
                    corners = [(i * width / 2, j * height / 2) for i in (1, -1) for j in (1, -1)] if points > 1 else []
                    total = x[n, :, h, w]
                    for a, b in [(0, 0), *corners]:
                        total = total + sample(x[n], (y + sin * a + cos * b) * scale, (z + cos * a - sin * b) * scale)
                    rows.append(total)
        return torch.stack(rows).view(2, 4, 5, 3).permute(0, 3, 1, 2)

    check_gradients(lambda x: ops.rotated_feature_align(x, boxes, scale, points), definition, [features], 2e-5)


# Quadrilaterals

def rectangles(number):
    boxes = torch.cat([torch.rand(number, 2) * 30, torch.rand(number, 2) * 30 + 2, torch.randn(number, 1) * 3], 1)
    x, y, width, height, angle = boxes.double().unbind(1)
    across, down = (torch.tensor(signs).double() / 2 for signs in ([1, -1, -1, 1], [1, 1, -1, -1]))
    u, v = width[:, None] * across, height[:, None] * down
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    corners = torch.stack([x[:, None] + cos * u - sin * v, y[:, None] + sin * u + cos * v], 2)
    return boxes, corners.flatten(1).float()


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_box_iou_quadri_of_rectangles(mode):
    """For rectangles the result is that of rotated boxes."""
    (boxes1, corners1), (boxes2, corners2) = rectangles(30), rectangles(20)
    expected = ops.box_iou_rotated(boxes1, boxes2, mode)
    check(ops.box_iou_quadri(corners1, corners2, mode), expected, 2e-5)
    check(ops.box_iou_quadri(corners1[:20], corners2, mode, aligned=True), expected[:20].diagonal(), 2e-5)
    check(ops.box_iou_quadri(corners1[:2], corners1[:2]).diagonal(), torch.ones(2))
    assert ops.box_iou_quadri(corners1[:0], corners2).shape == (0, 20)


@pytest.mark.parametrize('labels', [None, pytest.param(torch.arange(60) % 2, marks=stand_in)])
def test_nms_quadri_of_rectangles(labels):
    boxes, corners = rectangles(60)
    scores = torch.rand(60)
    dets, kept = ops.nms_quadri(corners, scores, .3, labels)
    check(kept, ops.nms_rotated(boxes, scores, .3, labels)[1])
    check(dets, torch.cat([corners, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_recorded_box_iou_quadri(mode):
    """Of any quadrilaterals: convex, concave and with sides that cross."""
    (boxes, _), (expected, aligned) = recorded('in/quadri'), recorded(f'box_iou_quadri/{mode}')
    check(ops.box_iou_quadri(boxes[:25], boxes[25:], mode), expected)
    check(ops.box_iou_quadri(boxes[:15], boxes[25:], mode, aligned=True), aligned)


def test_recorded_box_iou_quadri_of_edges_that_touch():
    first, second, expected = recorded('box_iou_quadri/touching')
    check(ops.box_iou_quadri(first, second), expected)


def test_recorded_nms_quadri():
    for got, expected in zip(ops.nms_quadri(*recorded('in/quadri'), .2), recorded('nms_quadri'), strict=True):
        check(got, expected)


@stand_in
def test_differentiable_overlaps_of_rotated_boxes():
    """Their values are those of `box_iou_rotated`, their gradients its slopes."""
    boxes1, boxes2 = (rectangles(40)[0].double() for _ in range(2))
    boxes2[0] = boxes1[0]                              # the same box: all corners twice
    boxes2[1], boxes1[1] = 1000., 1.                   # far apart
    boxes2[2] = boxes1[2] * torch.tensor([1, 1, .5, .5, 1])  # one inside the other

    def overlaps(a, b):
        return ops.box_iou_rotated(a, b, aligned=True)

    a = boxes1.clone().requires_grad_()
    got = ops.diff_iou_rotated_2d(a[None], boxes2[None])[0]
    check(got, overlaps(boxes1, boxes2))
    gradient, = torch.autograd.grad(got[2:].sum(), a)
    for i in range(5):
        step = torch.zeros(5).double()
        step[i] = 1e-6
        slope = (overlaps(boxes1 + step, boxes2) - overlaps(boxes1 - step, boxes2)) / 2e-6
        check(gradient[3:, i], slope[3:], 1e-4)
