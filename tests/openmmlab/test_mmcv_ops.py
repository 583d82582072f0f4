"""mmcv.ops without compiled operators, against compiled mmcv's recorded results and against definitions written here.

With compiled mmcv the same tests check it, but for what it lacks on a CPU and what is a choice of the stand-in.
"""
import os
import subprocess
import sys
from importlib import machinery, util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmambavision.openmmlab import mmcv_ops
from mmmambavision.openmmlab.mmcv_ops import __main__ as command

from ..helpers.compare import check, check_gradients

mmcv_ops.install()
ops = pytest.importorskip('mmcv.ops', exc_type=ImportError)
_ext = sys.modules['mmcv._ext']
attention = sys.modules['mmcv.ops.multi_scale_deform_attn']

STAND_IN = _ext.nms.__module__.startswith('mmmambavision')
stand_in = pytest.mark.skipif(not STAND_IN, reason='mmcv is compiled: the stand-in is not in use')
GOLDEN = {name: torch.from_numpy(array)
          for name, array in np.load(Path(__file__).parents[1] / 'data/golden/mmcv_ops.npz').items()}


devices = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU'))])


def golden(name, device='cpu'):
    """The tensors NAME/0, NAME/1, ... of compiled mmcv."""
    return [GOLDEN[key].to(device, copy=True) for key in sorted(GOLDEN) if key.rpartition('/')[0] == name]


def random_boxes(number, size=100.):
    corner = torch.rand(number, 2) * size
    return torch.cat([corner, corner + torch.rand(number, 2) * size / 3 + 1], 1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Recorded results

BOXES = {
    'nms/offset0': lambda b, s, ids: ops.nms(b, s, .5, offset=0),
    'nms/offset1': lambda b, s, ids: ops.nms(b, s, .5, offset=1),
    'nms/threshold0.3_max20': lambda b, s, ids: ops.nms(b, s, .6, score_threshold=.3, max_num=20),
    'soft_nms/linear': lambda b, s, ids: ops.soft_nms(b, s, .3, .5, 1e-3, 'linear'),
    'soft_nms/gaussian': lambda b, s, ids: ops.soft_nms(b, s, .3, .5, 1e-3, 'gaussian'),
    'soft_nms/naive': lambda b, s, ids: ops.soft_nms(b, s, .3, .5, 1e-3, 'naive'),
    'batched_nms/nms': lambda b, s, ids: ops.batched_nms(b, s, ids, dict(type='nms', iou_threshold=.5)),
    'batched_nms/soft_nms':
        lambda b, s, ids: ops.batched_nms(b, s, ids, dict(type='soft_nms', iou_threshold=.5, min_score=.05)),
    'batched_nms/split': lambda b, s, ids: ops.batched_nms(b, s, ids, dict(type='nms', iou_threshold=.5, split_thr=50)),
    'bbox_overlaps': lambda b, s, ids: (ops.bbox_overlaps(b[:20], b[20:50]),),
}


@devices
@pytest.mark.parametrize('name', BOXES)
def test_golden_boxes(name, device):
    for got, expected in zip(BOXES[name](*golden('in/nms', device)), golden(name), strict=True):
        check(got, expected)


def test_golden_class_agnostic():
    boxes, scores, ids = golden('in/nms')
    dets, kept = ops.batched_nms(boxes, scores, ids, dict(type='nms', iou_threshold=.5), class_agnostic=True)
    check(dets, GOLDEN['nms/offset0/0'])
    check(kept, GOLDEN['nms/offset0/1'])


def test_golden_nms_match():
    boxes, scores, _ = golden('in/nms')
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), .5)
    check(torch.tensor([len(group) for group in groups]), GOLDEN['nms_match/count/0'])
    check(torch.cat(groups), GOLDEN['nms_match/flat/0'])


@devices
def test_golden_rotated(device):
    boxes1, boxes2, scores = golden('in/rotated', device)
    check(ops.box_iou_rotated(boxes1, boxes2), GOLDEN['box_iou_rotated/0'])
    for got, expected in zip(ops.nms_rotated(boxes1, scores, .1), golden('nms_rotated'), strict=True):
        check(got, expected)


@devices
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [1, 0])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_golden_roi_align(mode, aligned, ratio, device):
    maps, rois = golden('in/roi', device)
    expected, output_gradient, gradient = golden(f'roi_align/{mode}_aligned{aligned}_ratio{ratio}', device)
    maps.requires_grad_()
    output = ops.roi_align(maps, rois, (7, 5), .25, ratio, mode, bool(aligned))
    check(output, expected)
    check(torch.autograd.grad(output, maps, output_gradient)[0], gradient)


LAYERS = {
    'deform_conv': lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, 1, 1, 1, 2, 2),
    'modulated_deform_conv': lambda x, offset, mask, weight, bias: ops.modulated_deform_conv2d(
        x, offset, mask, weight, bias, 2, 1, 1, 1, 1),
    'ms_deform_attn': lambda value, shapes, start, locations, weights: attention.MultiScaleDeformableAttnFunction.apply(
        value, shapes, start, locations, weights, 64),
}


@devices
@pytest.mark.parametrize('name', LAYERS)
def test_golden_layers(name, device):
    if name == 'ms_deform_attn' and device == 'cpu' and not STAND_IN:
        pytest.skip('compiled for GPUs alone')
    inputs = golden(f'in/{name}', device)
    learnt = [tensor.requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    expected, output_gradient, *gradients = golden(name, device)
    output = LAYERS[name](*inputs)
    check(output, expected)
    for got, gradient in zip(torch.autograd.grad(output, learnt, output_gradient), gradients, strict=True):
        check(got, gradient)


# Boxes

def overlap(a, b, offset=0):
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (area[0] + area[1] - width * height)


def plain_nms(boxes, scores, threshold, offset=0):
    boxes, kept = boxes.numpy(), []
    for i in scores.sort(0, descending=True).indices.tolist():
        if all(overlap(boxes[j], boxes[i], offset) <= np.float32(threshold) for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


@pytest.mark.parametrize('offset', [0, 1])
def test_nms(offset):
    boxes, scores = random_boxes(80), torch.rand(80)
    dets, kept = ops.nms(boxes, scores, .3, offset)
    check(kept, plain_nms(boxes, scores, .3, offset))
    check(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('number', [3, 60, 700])
def test_nms_of_equal_scores(number):
    """Which of them is first, torch's sort decides. An overlap that is the threshold, as many are here, is none."""
    boxes, scores = random_boxes(number, 8).round(), torch.randint(0, 4, (number,)) / 4
    check(ops.nms(boxes, scores, .6)[1], plain_nms(boxes, scores, .6))
    groups = ops.nms_match(torch.cat([boxes, scores[:, None]], 1), .6)
    left = scores.sort(0, descending=True).indices.tolist()
    while left:
        group = [left[0]] + [i for i in left[1:] if overlap(boxes[left[0]].numpy(), boxes[i].numpy()) >= np.float32(.6)]
        assert groups.pop(0).tolist() == group
        left = [i for i in left if i not in group]
    assert groups == []


def test_nms_at_its_threshold():
    boxes = torch.tensor([[0., 0, 5, 1], [0, 0, 3, 1]])  # 3 / 5, which float32 has above 0.6, double has not
    assert ops.nms(boxes, torch.tensor([.9, .8]), .6)[1].tolist() == [0, 1]
    assert ops.nms(boxes, torch.tensor([.9, .8]), .59)[1].tolist() == [0]
    dets = torch.cat([boxes, torch.tensor([[.9], [.8]])], 1)
    assert [group.tolist() for group in ops.nms_match(dets, .6)] == [[0, 1]]


def test_boxes_as_numpy():
    dets, kept = ops.nms(np.array([[0, 0, 5, 1], [0, 0, 4.5, 1]], np.float32), np.array([.5, .9], np.float32), .5)
    assert kept.tolist() == [1] and dets.tolist() == [[0, 0, 4.5, 1, np.float32(.9)]]


@stand_in
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_of_equal_scores(method):
    """Box by box, as the paper's listing: the best is kept, the others' scores fall, the lowest are dropped."""
    boxes, scores = random_boxes(60, 30).round(), torch.randint(1, 5, (60,)) / 4
    dets, kept = ops.soft_nms(boxes, scores, .3, .5, .2, method)
    left = [[*box, score, i] for i, (box, score) in enumerate(zip(boxes.numpy(), scores.numpy()))]
    expected = []
    while left:
        best = max(range(len(left)), key=lambda i: left[i][4])
        left[0], left[best] = left[best], left[0]
        first, *left = left
        expected.append(first)
        i = 0
        while i < len(left):
            ratio = overlap(first, left[i])
            decay = {'naive': 0, 'linear': 1 - ratio}.get(method, 1) if ratio >= np.float32(.3) else 1
            left[i][4] *= np.exp(-ratio ** 2 / np.float32(.5)) if method == 'gaussian' else decay
            if left[i][4] < np.float32(.2):
                left[i] = left[-1]
                left.pop()
            else:
                i += 1
    check(kept, torch.tensor([row[5] for row in expected]))
    check(dets, torch.tensor([row[:5] for row in expected]))


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode, offset):
    boxes1, boxes2 = random_boxes(7, 20), random_boxes(7, 20)
    expected = torch.tensor([[overlap(a, b, offset) for b in boxes2.numpy()] for a in boxes1.numpy()])
    if mode == 'iof':
        area1, area2 = ((b[:, 2] - b[:, 0] + offset) * (b[:, 3] - b[:, 1] + offset) for b in (boxes1, boxes2))
        shared = (area1[:, None] + area2) * expected / (1 + expected)
        expected = shared / area1[:, None]
    check(ops.bbox_overlaps(boxes1, boxes2, mode, offset=offset), expected)
    check(ops.bbox_overlaps(boxes1, boxes2, mode, aligned=True, offset=offset), expected.diagonal())


def corners(x, y, width, height, angle):
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return half @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


def polygon_area(polygon):
    x, y = np.reshape(polygon, (-1, 2)).T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def clipped(polygon, other):
    """The part of one convex polygon that is in another, cut along one edge after the other."""
    for start, end in zip(other, np.roll(other, -1, 0)):
        side = [np.cross(end - start, point - start) for point in polygon]
        cut = []
        for i, (point, here) in enumerate(zip(polygon, side)):
            before, there = polygon[i - 1], side[i - 1]
            if here * there < 0:
                cut.append(before + (point - before) * there / (there - here))
            if here >= 0:
                cut.append(point)
        polygon = cut
    return polygon


def rotated_overlap(a, b, mode='iou'):
    a, b = a.double().numpy(), b.double().numpy()
    shared = polygon_area(clipped(corners(*a), corners(*b)))
    return shared / (a[2] * a[3] + b[2] * b[3] - shared if mode == 'iou' else a[2] * a[3])


def random_rotated(number):
    return torch.cat([torch.rand(number, 2) * 30, torch.rand(number, 2) * 30 + 2, torch.randn(number, 1) * 3], 1)


@pytest.mark.filterwarnings('ignore:Arrays of 2-dimensional vectors:DeprecationWarning')
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_box_iou_rotated(mode):
    boxes1, boxes2 = random_rotated(9), random_rotated(11)
    expected = torch.tensor([[rotated_overlap(a, b, mode) for b in boxes2] for a in boxes1])
    check(ops.box_iou_rotated(boxes1, boxes2, mode), expected)
    check(ops.box_iou_rotated(boxes1, boxes2[:9], mode, aligned=True), expected[:, :9].diagonal())
    turned = torch.tensor([1., 1, 1, 1, -1])
    check(ops.box_iou_rotated(boxes1 * turned, boxes2 * turned, mode, clockwise=False), expected)


@stand_in
def test_box_iou_rotated_of_many(monkeypatch):
    from mmmambavision.openmmlab.mmcv_ops import rotated_boxes
    boxes1, boxes2 = random_rotated(9), random_rotated(4)
    whole = ops.box_iou_rotated(boxes1, boxes2)
    monkeypatch.setattr(rotated_boxes, 'PAIRS_AT_ONCE', 8)
    check(ops.box_iou_rotated(boxes1, boxes2), whole)


@pytest.mark.parametrize('turn', [0., .3, np.pi / 2])
def test_box_iou_rotated_of_edges_that_touch(turn):
    """The same box, boxes side by side, one inside another along an edge, and one without area."""
    box = [3., 4, 2, 6, turn]
    beside = [3 + 2 * np.cos(turn), 4 + 2 * np.sin(turn), 2, 6, turn]
    inside = [3 + .5 * np.cos(turn), 4 + .5 * np.sin(turn), 1, 6, turn]
    others = torch.tensor([box, beside, inside, [3, 4, 0, 6, turn]], dtype=torch.float32)
    got = ops.box_iou_rotated(others[:1], others)
    torch.testing.assert_close(got, torch.tensor([[1., 0, .5, 0]]), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings('ignore:Arrays of 2-dimensional vectors:DeprecationWarning')
@pytest.mark.parametrize('labels', [None, pytest.param(torch.arange(40) % 2, marks=stand_in)])  # a CPU's ignores them
def test_nms_rotated(labels):
    boxes, scores = random_rotated(40), torch.rand(40)
    dets, kept = ops.nms_rotated(boxes, scores, .3, labels)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        rivals = [j for j in expected if labels is None or labels[i] == labels[j]]
        if all(rotated_overlap(boxes[j], boxes[i]) < .3 for j in rivals):
            expected.append(i)
    check(kept, torch.tensor(expected))
    check(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@stand_in
@pytest.mark.parametrize('labels', [None, torch.arange(300) % 2])
def test_nms_rotated_by_blocks(monkeypatch, labels):
    """As on a GPU: the boxes that the other way keeps, in a few hundred calls of torch instead of thousands."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from mmmambavision.openmmlab.mmcv_ops import rotated_boxes

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    boxes, scores = random_rotated(300), torch.rand(300)
    expected = ops.nms_rotated(boxes, scores, .3, labels)
    monkeypatch.setattr(rotated_boxes, 'on_gpu', lambda dets: True)
    monkeypatch.setattr(rotated_boxes, 'PAIRS_AT_ONCE', 2 ** 15)  # three blocks
    with Count() as count:
        found = ops.nms_rotated(boxes, scores, .3, labels)
    assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0]) and count.calls < 400


# Regions

def sample(maps, y, x, border):
    """maps (C, H, W) at one place, linearly in between; up to a pixel off the map as `border` says, 0 farther out."""
    height, width = maps.shape[1:]
    if border == 'repeated':
        if not (-1 <= y <= height and -1 <= x <= width):
            return maps.new_zeros(len(maps))
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    value = 0
    for row in (int(top), int(top) + 1):
        for column in (int(left), int(left) + 1):
            if 0 <= row < height and 0 <= column < width:
                value = value + maps[:, row, column] * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return value if torch.is_tensor(value) else maps.new_zeros(len(maps))


def plain_roi_align(maps, rois, size, scale, ratio, mode, aligned):
    results = []
    for image, *box in rois.double():
        x1, y1, x2, y2 = (place * scale - (.5 if aligned else 0) for place in box)
        width, height = (extent if aligned else extent.clamp(min=1) for extent in (x2 - x1, y2 - y1))
        across, down = (ratio or int((extent / bins).ceil()) for extent, bins in ((width, size[1]), (height, size[0])))
        bins = []
        for row in range(size[0]):
            for column in range(size[1]):
                values = [sample(maps[int(image)], y1 + (row + (i + .5) / down) * height / size[0],
                                 x1 + (column + (j + .5) / across) * width / size[1], 'repeated')
                          for i in range(down) for j in range(across)]
                values = torch.stack(values) if values else maps.new_zeros(1, maps.shape[1])
                bins.append(values.mean(0) if mode == 'avg' else values.amax(0))
        results.append(torch.stack(bins, 1).unflatten(1, size))
    return torch.stack(results)


REGIONS = torch.tensor([
    [0, 1.3, 2.1, 17.7, 13.2], [1, -9.1, -7, 5.3, 8.4], [1, 12, 11, 33, 29.7], [0, 6.1, 5.2, 6.4, 9.9]])


@pytest.mark.parametrize('ratio', [0, 2, 3])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align(mode, aligned, ratio):
    check_gradients(lambda maps: ops.roi_align(maps, REGIONS, (2, 3), .5, ratio, mode, aligned),
                    lambda maps: plain_roi_align(maps, REGIONS, (2, 3), .5, ratio, mode, aligned),
                    [torch.randn(2, 3, 9, 11)])


@stand_in
def test_roi_align_by_threads():
    """In every mode of autograd the bits of torchvision's one thread, and its gradients."""
    maps = torch.randn(2, 3, 20, 30)
    corners = torch.rand(37, 2) * 40
    rois = torch.cat([torch.randint(2, (37, 1)).float(), corners, corners + 20], 1)
    leaf = maps.clone().requires_grad_()
    expected = torch.ops.torchvision.roi_align(leaf, rois, .5, 2, 3, 0, True)
    expected.square().sum().backward()
    threads = torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            with torch.inference_mode():
                inferred = ops.roi_align(maps.clone(), rois, (2, 3), .5, 0, 'avg', True)
            own = maps.clone().requires_grad_()
            trained = ops.roi_align(own, rois, (2, 3), .5, 0, 'avg', True)
            assert torch.equal(inferred, expected) and torch.equal(trained, expected)
            trained.square().sum().backward()
            torch.testing.assert_close(own.grad, leaf.grad)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('mode', ['avg', pytest.param('max', marks=stand_in)])
def test_roi_align_of_no_samples(mode):
    """Compiled mmcv has -10000 as the maximum of nothing on a CPU, and the lowest number of all on a GPU."""
    maps = torch.randn(1, 2, 5, 5, requires_grad=True)
    output = ops.roi_align(maps, torch.tensor([[0., 1, 2, 1, 2]]), 2, 1., 0, mode, True)
    output.sum().backward()
    assert not output.any() and not maps.grad.any()


def plain_roi_pool(maps, rois, size, scale):
    results = maps.new_zeros(len(rois), maps.shape[1], *size)
    for r, (image, *box) in enumerate(rois.double().tolist()):
        start, end = np.array(box[1::-1]) * scale, (np.array(box[3:1:-1]) + 1) * scale
        step = (end - start) / size
        for place in np.ndindex(*size):
            first = np.floor(place * step + start).clip(0).astype(int)
            last = np.ceil((np.array(place) + 1) * step + start).clip(0).astype(int)
            pixels = maps[int(image), :, first[0]:last[0], first[1]:last[1]].flatten(1)
            if pixels.numel() and (step > 0).all():
                results[(r, slice(None), *place)] = pixels.amax(1)
    return results


@stand_in
def test_roi_pool():
    rois = torch.cat([REGIONS, torch.tensor([[0, 9., 9, 2, 12], [1, 40, 40, 50, 50]])])  # inside out; off the map
    check_gradients(lambda maps: ops.roi_pool(maps, rois, (2, 3), .5),
                    lambda maps: plain_roi_pool(maps, rois, (2, 3), .5), [torch.randn(2, 3, 9, 11)])


# Losses

TARGETS = {'sigmoid': torch.tensor([0, 3, 4, 5, 2, 5, -1]), 'softmax': torch.tensor([0, 3, 4, -1, 2, 5, 1])}


def plain_focal_loss(kind, logits, weight, gamma, alpha):
    """5 classes; a target that is none of them is background to the sigmoid and ignored by the softmax."""
    target = TARGETS[kind]
    known = (target >= 0) & (target < 5)
    factor = weight[target.clamp(0, 4)]
    if kind == 'softmax':
        log = logits.log_softmax(1).gather(1, target.clamp(0, 4)[:, None])[:, 0]
        return torch.where(known, -alpha * (1 - log.exp()) ** gamma * log * factor, 0)
    chosen = F.one_hot(torch.where(known, target, 5), 6)[:, :5]
    log = F.logsigmoid(logits * (2 * chosen - 1))
    balance = torch.where(chosen == 1, alpha, 1 - alpha) * torch.where(known, factor, 1)[:, None]
    return -balance * (1 - log.exp()) ** gamma * log


@stand_in
@pytest.mark.parametrize('gamma, alpha', [(2., .25), (1.5, .6), (0., .5)])
@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('kind', TARGETS)
def test_focal_loss(kind, weighted, reduction, gamma, alpha):
    weight = torch.rand(5) if weighted else None
    function = dict(sigmoid=ops.sigmoid_focal_loss, softmax=ops.softmax_focal_loss)[kind]

    def definition(logits):
        loss = plain_focal_loss(kind, logits, torch.ones(5) if weight is None else weight.double(), gamma, alpha)
        return loss if reduction == 'none' else loss.sum() / (1 if reduction == 'sum' else 7)

    def ours(logits):
        return function(logits, TARGETS[kind], gamma, alpha, weight, reduction)

    logits = torch.randn(7, 5) * 3
    if kind == 'sigmoid' or reduction != 'none':
        check_gradients(ours, definition, [logits])
    else:  # mmcv multiplies (N, C) by the gradient of (N,), which it can only if the losses are added up
        check(ours(logits), definition(logits.double()))


@stand_in
def test_focal_loss_of_logits_far_out():
    logits = torch.tensor([[-200., 200., 0.]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0]), 2., .25, None, 'none')
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


# Deformable layers

def plain_deform_conv(x, offset, weight, mask, stride, padding, dilation, deform_groups):
    groups = x.shape[1] // weight.shape[1]
    offset = offset.unflatten(1, (deform_groups, *weight.shape[2:], 2))
    output = x.new_zeros(len(x), len(weight), *offset.shape[-2:])
    for n, row, column in np.ndindex(len(x), *offset.shape[-2:]):
        for i, j in np.ndindex(*weight.shape[2:]):
            y = row * stride[0] - padding[0] + i * dilation[0] + offset[n, :, i, j, 0, row, column]
            z = column * stride[1] - padding[1] + j * dilation[1] + offset[n, :, i, j, 1, row, column]
            values = torch.cat([sample(part, y[g], z[g], 'zero') for g, part in enumerate(x[n].chunk(deform_groups))])
            if mask is not None:
                scale = mask.unflatten(1, (deform_groups, *weight.shape[2:]))[n, :, i, j, row, column]
                values = values * scale.repeat_interleave(len(values) // deform_groups)
            output[n, :, row, column] = output[n, :, row, column] + torch.cat([
                kernel[:, :, i, j] @ part for kernel, part in zip(weight.chunk(groups), values.chunk(groups))])
    return output


@pytest.mark.parametrize('groups, deform_groups', [(1, 1), (2, 1), (1, 2), (4, 2)])
@pytest.mark.parametrize('modulated', [False, True])
def test_deform_conv(modulated, groups, deform_groups):
    x, weight = torch.randn(2, 4, 6, 7), torch.randn(4, 4 // groups, 3, 2)
    geometry = (2, 1), (1, 2), (1, 3)  # stride, padding, dilation: 6 x 7 become 3 x 8
    offset, mask = torch.randn(2, deform_groups * 12, 3, 8) * 2, torch.rand(2, deform_groups * 6, 3, 8)
    if modulated:
        check_gradients(
            lambda x, o, w, m, b: ops.modulated_deform_conv2d(x, o, m, w, b, *geometry, groups, deform_groups),
            lambda x, o, w, m, b: plain_deform_conv(x, o, w, m, *geometry, deform_groups) + b[:, None, None],
            [x, offset, weight, mask, torch.randn(4)])
    else:
        check_gradients(lambda x, o, w: ops.deform_conv2d(x, o, w, *geometry, groups, deform_groups),
                        lambda x, o, w: plain_deform_conv(x, o, w, None, *geometry, deform_groups),
                        [x, offset, weight])


def test_offsets_of_a_larger_map():
    """As in DyHead: mmcv reads the first values of each image, whatever the size of the map that they are of."""
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(8, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 10, 12, requires_grad=True), torch.rand(2, 9, 10, 12, requires_grad=True)
    first = [t.detach().flatten(1)[:, :t.shape[1] * 30].reshape(2, -1, 5, 6).requires_grad_() for t in (offset, mask)]
    got = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    expected = ops.modulated_deform_conv2d(x, *first, weight, None, 1, 1)
    check(got, expected)
    gradient = torch.randn_like(got)
    for large, small in zip(torch.autograd.grad(got, [offset, mask], gradient),
                            torch.autograd.grad(expected, first, gradient)):
        large = large.flatten(1)
        check(large[:, :small[0].numel()], small.flatten(1))
        assert not large[:, small[0].numel():].any()


@stand_in
def test_offsets_of_a_smaller_map_are_refused():
    with pytest.raises(RuntimeError, match='size'):
        ops.modulated_deform_conv2d(torch.randn(1, 4, 5, 6), torch.randn(1, 18, 3, 3), torch.rand(1, 9, 3, 3),
                                    torch.randn(8, 4, 3, 3), None, 1, 1)


def test_deform_conv_without_bias_is_convolution():
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3)
    offset, mask = torch.zeros(1, 18, 5, 5), torch.ones(1, 9, 5, 5)
    expected = F.conv2d(x, weight, padding=1)
    check(ops.deform_conv2d(x, offset, weight, 1, 1), expected)
    check(ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1), expected)


@pytest.mark.parametrize('learnt', [(0,), (1,), (2,), (0, 2)])
def test_deform_conv_gradients_of_some(learnt):
    inputs = [torch.randn(4, 2, 5, 5), torch.randn(4, 18, 5, 5), torch.randn(3, 2, 3, 3)]
    for tensor in inputs:
        tensor.requires_grad_()
    every = torch.autograd.grad(ops.deform_conv2d(*inputs, 1, 1).sin().sum(), inputs)
    output = ops.deform_conv2d(*(t if i in learnt else t.detach() for i, t in enumerate(inputs)), 1, 1).sin().sum()
    for got, i in zip(torch.autograd.grad(output, [inputs[i] for i in learnt]), learnt):
        check(got, every[i])


def test_deform_conv_gradients_one_after_the_other():
    """Each of its own output's gradient, though the graph is the same one."""
    inputs = [torch.randn(2, 2, 5, 5), torch.randn(2, 18, 5, 5), torch.randn(3, 2, 3, 3)]
    for tensor in inputs:
        tensor.requires_grad_()
    output = ops.deform_conv2d(*inputs, 1, 1)
    gradient = torch.randn_like(output)
    wanted = [torch.autograd.grad(output, inputs, scale * gradient, retain_graph=True) for scale in (1, 2)]
    check(torch.autograd.grad(output, inputs[0], gradient, retain_graph=True)[0], wanted[0][0])
    gradient *= 2
    check(torch.autograd.grad(output, inputs[2], gradient, retain_graph=True)[0], wanted[1][2])


def test_deform_conv_in_steps():
    inputs = [torch.randn(4, 2, 5, 5), torch.randn(4, 18, 5, 5), torch.randn(3, 2, 3, 3)]
    whole, steps = (ops.deform_conv2d(*inputs, 1, 1, 1, 1, 1, False, step) for step in (32, 2))
    check(steps, whole)
    with pytest.raises(AssertionError, match='im2col_step'):
        ops.deform_conv2d(*inputs, 1, 1, 1, 1, 1, False, 3)


@stand_in
@pytest.mark.parametrize('heads, channels, points', [(1, 3, 1), (4, 8, 3)])
def test_ms_deform_attn(heads, channels, points):
    shapes = torch.tensor([[7, 5], [4, 3], [1, 2]])
    start = torch.tensor([0, 35, 47])
    value = torch.randn(2, 49, heads, channels)
    locations = torch.rand(2, 6, heads, 3, points, 2) * 1.4 - .2  # some off the maps
    weights = torch.rand(2, 6, heads, 3, points)
    output = _ext.ms_deform_attn_forward(value, shapes, start, locations, weights, im2col_step=64)
    inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    expected = attention.multi_scale_deformable_attn_pytorch(inputs[0], shapes, *inputs[1:])
    check(output, expected)
    gradient = torch.randn_like(output)
    gradients = [torch.zeros_like(tensor) for tensor in inputs]
    _ext.ms_deform_attn_backward(value, shapes, start, locations, weights, gradient, *gradients, im2col_step=64)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, inputs, gradient)):
        check(got, wanted)


# Nothing to do, little precision, compiled graphs

def test_no_boxes_and_no_regions():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    assert ops.nms(boxes, scores, .5)[1].tolist() == ops.soft_nms(boxes, scores)[1].tolist() == []
    assert ops.nms_match(torch.zeros(0, 5), .5) == []
    assert ops.bbox_overlaps(boxes, torch.rand(3, 4)).shape == (0, 3)
    assert ops.box_iou_rotated(torch.rand(2, 5), torch.zeros(0, 5)).shape == (2, 0)
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    for mode in ('avg', 'max'):
        output = ops.roi_align(maps, torch.zeros(0, 5), 3, 1., 0, mode)
        assert output.shape == (0, 2, 3, 3)
        output.sum().backward()
    if STAND_IN:
        rotated = torch.zeros(0, 5)
        assert _ext.nms_rotated(rotated, scores, scores.long(), rotated, scores, .5, False).shape == (0,)
        output = ops.roi_pool(maps, torch.zeros(0, 5), 3)
        output.sum().backward()
        for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
            assert loss(torch.zeros(0, 3), torch.zeros(0).long(), 2., .25, None, 'sum') == 0
    assert not maps.grad.any()


HALVES = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])


@stand_in
@HALVES
def test_boxes_in_half(dtype):
    boxes, scores = random_boxes(50).to(dtype), torch.rand(50).to(dtype)
    wide, ids = (boxes.float(), scores.float()), torch.arange(50) % 3
    for function in (lambda *args: ops.nms(*args, .3), ops.soft_nms,
                     lambda *args: ops.batched_nms(*args, ids, dict(type='nms', iou_threshold=.3), True)):
        got, expected = function(boxes, scores), function(*wide)
        assert got[0].dtype == dtype and torch.equal(got[1], expected[1])
        check(got[0], expected[0], rtol=4e-3)
    check(ops.bbox_overlaps(boxes, boxes), ops.bbox_overlaps(wide[0], wide[0]), rtol=4e-3)


@stand_in
@HALVES
@pytest.mark.parametrize('name', ['roi_align', 'roi_align_max', 'roi_pool', 'deform_conv', 'modulated_deform_conv',
                                  'ms_deform_attn', 'sigmoid_focal_loss', 'softmax_focal_loss'])
def test_maps_in_half(name, dtype):
    target = torch.arange(6)
    function = {
        **LAYERS,
        'roi_align': lambda maps: ops.roi_align(maps, REGIONS.to(maps.dtype), (2, 3), .5, 2, 'avg', True),
        'roi_align_max': lambda maps: ops.roi_align(maps, REGIONS.to(maps.dtype), (2, 3), .5, 2, 'max', True),
        'roi_pool': lambda maps: ops.roi_pool(maps, REGIONS.to(maps.dtype), (2, 3), .5),
        'sigmoid_focal_loss': lambda logits: ops.sigmoid_focal_loss(logits, target, 2., .25, None, 'sum'),
        'softmax_focal_loss': lambda logits: ops.softmax_focal_loss(logits, target, 2., .25, None, 'sum'),
    }[name]
    inputs = golden(f'in/{name}') or [torch.randn(6, 5) if 'focal' in name else torch.randn(2, 3, 9, 11)]
    inputs = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
    gradients = []
    for convert in (lambda tensor: tensor.clone(), lambda tensor: tensor.float()):
        given = [convert(tensor).requires_grad_() if tensor.is_floating_point() else tensor for tensor in inputs]
        output = function(*given)
        learnt = [tensor for tensor in given if tensor.requires_grad]
        gradients.append([output, *torch.autograd.grad(output.float().square().sum(), learnt)])
    for got, expected in zip(*gradients):
        assert got.dtype == dtype
        # A maximum's place is kept in as few bits as it has, by mmcv as well; so may be the place of its gradient.
        if name != 'roi_align_max' or got is gradients[0][0]:
            check(got, expected, rtol=.03)


@HALVES
def test_autocast(dtype):
    """The layers that mmdet's detectors train with, their backward pass inside autocast as well as outside."""
    x = torch.randn(2, 4, 8, 8)
    modules = [ops.DeformConv2dPack(4, 4, 3, padding=1), ops.ModulatedDeformConv2dPack(4, 4, 3, padding=1),
               ops.RoIAlign(3, .5)] if STAND_IN else [ops.RoIAlign(3, .5)]
    for module in modules:
        for inside in (True, False):
            given = [x.clone().requires_grad_()] + ([REGIONS] if isinstance(module, ops.RoIAlign) else [])
            with torch.autocast('cpu', dtype):
                output = module(*given)
                if inside:
                    output.sum().backward()
            if not inside:
                output.sum().backward()
            assert output.isfinite().all() and given[0].grad.isfinite().all() and given[0].grad.any()
            assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@stand_in
@pytest.mark.filterwarnings('ignore:.*create_unbacked_symint:FutureWarning')
def test_compiled_graph():
    """torch.compile keeps gradients, and has no graph break in NMS."""
    maps, scores = torch.randn(2, 3, 9, 11, requires_grad=True), torch.rand(4)

    def pool(maps):
        return ops.roi_align(maps * 2, REGIONS, 3, .5, 0, 'avg', True).square().sum()

    loss, expected = torch.compile(pool, backend='aot_eager')(maps), pool(maps)
    check(loss, expected)
    check(torch.autograd.grad(loss, maps)[0], torch.autograd.grad(expected, maps)[0])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        function = torch.compile(lambda boxes, scores: ops.nms(boxes, scores, .5), backend='aot_eager', fullgraph=True)
        check(function(REGIONS[:, 1:], scores)[1], ops.nms(REGIONS[:, 1:], scores, .5)[1])


# What is in use, and what is not there

def test_versions():
    assert ops.get_compiler_version() and ops.get_compiling_cuda_version()
    if STAND_IN:
        assert 'torchvision' in ops.get_compiler_version()
        cuda = ops.get_compiling_cuda_version()
        assert cuda == ('not available' if torch.version.cuda is None else torch.version.cuda)


@stand_in
def test_missing_operators():
    assert ops.knn and ops.SyncBatchNorm and ops.Voxelization
    with pytest.raises(NotImplementedError) as error:
        ops.min_area_polygons(torch.randn(1, 18))
    assert 'min_area_polygons' in str(error.value) and 'MMCV_WITH_OPS=1 pip install' in str(error.value)
    for name in ('__path__', '__wrapped__', '_private'):
        assert not hasattr(_ext, name)


def test_collect_env():
    from mmcv.utils import collect_env
    env = collect_env()
    assert env['MMCV Compiler'] == ops.get_compiler_version()


@pytest.fixture
def lite(tmp_path):
    """A folder like that of an mmcv without operators."""
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    (folder / '__init__.py').write_text('')
    return folder


def run(action, folder, monkeypatch):
    monkeypatch.setattr(command, 'find_spec', lambda name: util.spec_from_file_location(
        name, folder / '__init__.py', submodule_search_locations=[str(folder)]))
    command.main([action])


def refusal(action, folder, monkeypatch):
    """The sentence, which makes Python exit with status 1."""
    with pytest.raises(SystemExit) as error:
        run(action, folder, monkeypatch)
    assert isinstance(error.value.code, str)
    return error.value.code


def test_install_and_remove(lite, monkeypatch, capsys):
    file = lite / '_ext.py'
    for _ in range(2):
        run('--install', lite, monkeypatch)
        assert file.read_text().count('\n') == 2 and str(file) in capsys.readouterr().out
    run('--remove', lite, monkeypatch)
    assert not file.exists() and str(file) in capsys.readouterr().out
    run('--remove', lite, monkeypatch)
    assert str(lite) in capsys.readouterr().out


def test_compiled_mmcv_is_left_alone(lite, monkeypatch):
    library = lite / ('_ext' + machinery.EXTENSION_SUFFIXES[0])
    library.write_bytes(b'compiled')
    for action in ('--install', '--remove'):
        assert str(library) in refusal(action, lite, monkeypatch)
    assert library.read_bytes() == b'compiled' and not (lite / '_ext.py').exists()
    # An _ext.py of ours that an earlier mmcv-lite left there is not the compiled one's.
    (lite / '_ext.py').write_text(command.FILE)
    run('--remove', lite, monkeypatch)
    assert [path.name for path in lite.iterdir() if path.name.startswith('_ext')] == [library.name]


def test_anothers_file_is_left_alone(lite, monkeypatch):
    (lite / '_ext.py').write_text('nms = None\n')
    for action in ('--install', '--remove'):
        assert str(lite / '_ext.py') in refusal(action, lite, monkeypatch)
    assert (lite / '_ext.py').read_text() == 'nms = None\n'


def test_no_mmcv(monkeypatch):
    monkeypatch.setattr(command, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='pip install mmcv-lite'):
        command.main(['--install'])


def test_written_file(lite, monkeypatch):
    """With the operators, switched off, and with mmmambavision gone."""
    run('--install', lite, monkeypatch)

    def load():
        spec = util.spec_from_file_location('mmcv._ext', lite / '_ext.py')
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    from mmmambavision.openmmlab.mmcv_ops import operators
    assert load().nms is operators.OPERATORS['nms'] and load().min_area_polygons
    monkeypatch.setenv('MMMAMBAVISION_MMCV_OPS', 'off')
    with pytest.raises(ModuleNotFoundError, match='MMMAMBAVISION_MMCV_OPS'):
        load()
    monkeypatch.delenv('MMMAMBAVISION_MMCV_OPS')
    monkeypatch.setitem(sys.modules, 'mmmambavision.openmmlab.mmcv_ops', None)
    with pytest.raises(ImportError, match='pip install mmmambavision'):
        load()


def test_finder(monkeypatch):
    mmcv_ops.install()
    assert sys.meta_path.count(mmcv_ops.FINDER) == 1
    assert mmcv_ops.FINDER.find_spec('mmcv._ext').loader is mmcv_ops.FINDER
    assert mmcv_ops.FINDER.find_spec('mmcv._ext2') is mmcv_ops.FINDER.find_spec('mmcv') is None
    monkeypatch.setenv('MMMAMBAVISION_MMCV_OPS', 'off')
    assert mmcv_ops.FINDER.find_spec('mmcv._ext') is None


@stand_in
@pytest.mark.parametrize('switch', ['', 'off'])
def test_new_program(switch, lite):
    """With mmmambavision imported first mmcv.ops works, and until then nobody has waited for torchvision."""
    code = '''
import sys
from mmmambavision.openmmlab import mmcv_ops
mmcv_ops.install()
assert not {'mmcv.ops', 'torchvision'} & set(sys.modules)
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error.name)
else:
    print(mmcv.ops.get_compiler_version())
'''
    got = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'MMMAMBAVISION_MMCV_OPS': switch},
                         capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    assert got.stdout.strip() == ('mmcv._ext' if switch else ops.get_compiler_version())


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('offsets', ['zero', 'whole'])
def test_offsets_of_whole_pixels(offsets, modulated):
    """As every deformable layer starts with: samples lie exactly a pixel off the map, where mmcv's gradient is 0.

    deform_conv_edges.npz has the gradients of compiled mmcv 2.1.0.
    """
    generator = np.random.Generator(np.random.PCG64(7))

    def normal(*shape):
        return torch.from_numpy(generator.standard_normal(shape).astype('float32'))

    x = normal(2, 4, 9, 11).requires_grad_()
    offset = torch.from_numpy(generator.integers(-3, 4, (2, 18, 9, 11)).astype('float32'))
    offset = (offset * (offsets == 'whole')).requires_grad_()
    weight = normal(6, 4, 3, 3).requires_grad_()
    mask = torch.from_numpy(generator.random((2, 9, 9, 11)).astype('float32')).requires_grad_()
    y = (ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1) if modulated
         else ops.deform_conv2d(x, offset, weight, 1, 1))
    y.backward(normal(*y.shape))
    stored = np.load(Path(__file__).parents[1] / 'data/golden/deform_conv_edges.npz')
    check(offset.grad, torch.from_numpy(stored[f'{offsets}/{int(modulated)}']))


@stand_in
def test_attention_of_an_empty_batch():
    out = _ext.ms_deform_attn_forward(
        torch.zeros(0, 20, 2, 4), torch.tensor([[4, 5]]), torch.tensor([0]), torch.zeros(0, 3, 2, 1, 2, 2),
        torch.zeros(0, 3, 2, 1, 2), im2col_step=64)
    assert out.shape == (0, 3, 8)


@stand_in
def test_boxes_without_area_in_gaussian_soft_nms():
    """0 / 0 makes a score of NaN, which no other is compared with; as compiled mmcv 2.1.0 orders them."""
    boxes = torch.tensor([[0., 0., 0., 0.], [0., 0., 0., 0.], [5., 5., 9., 9.], [5., 5., 9., 8.]])
    _, kept = ops.soft_nms(boxes, torch.tensor([.5, .4, .9, .8]), sigma=.5, min_score=1e-3, method='gaussian')
    assert kept.tolist() == [2, 0, 1, 3]


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError('is for others alone')

    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    monkeypatch.setattr(command, 'put', refuse)
    monkeypatch.setattr(command, 'find_spec', lambda name: machinery.PathFinder.find_spec(name, [str(tmp_path)]))
    with pytest.raises(SystemExit, match='mmmambavision.openmmlab'):
        command.main(['--install'])


@stand_in
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e9])
def test_offsets_that_are_no_numbers_sample_nothing(value):
    x, weight = torch.randn(1, 4, 9, 11, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    offset = torch.full((1, 18, 9, 11), value, requires_grad=True)
    y = ops.deform_conv2d(x, offset, weight, 1, 1)
    y.sum().backward()
    assert not y.any() and not x.grad.any() and not offset.grad.any() and not weight.grad.any()


def test_roi_align_in_graphs_of_the_callers_thread():
    """Threads would make constants of the regions that a trace sees."""
    from torch.fx.experimental.proxy_tensor import make_fx

    from mmmambavision.openmmlab.mmcv_ops import regions
    maps, rois = torch.randn(1, 2, 9, 9), torch.tensor([[0., 1, 1, 5, 5], [0., 2, 2, 7, 8], [0., 0, 0, 3, 3]])

    def pool(maps, rois):
        output = maps.new_empty(3, 2, 4, 4)
        regions.roi_align_forward(maps, rois, output, None, None, 4, 4, 1., 2, 1, True)
        return output

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for mode in ('real', 'fake'):
            graph = make_fx(pool, tracing_mode=mode)(maps, rois)
            assert torch.equal(graph(maps + 1, rois * 1.1), pool(maps + 1, rois * 1.1))
    finally:
        torch.set_num_threads(threads)
