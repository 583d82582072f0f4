"""Suppression of fixed size, here and in ONNX Runtime, beside torchvision's and mmcv's."""
import pytest
import torch
import torchvision
from mmcv.ops import batched_nms

from mmmambavision.export.boxes import fixed_nms, nms_by_class, translate_nms


class Suppress(torch.nn.Module):
    def __init__(self, count, threshold):
        super().__init__()
        self.count, self.threshold = count, threshold

    def forward(self, boxes, scores, labels):
        return nms_by_class(boxes, scores, labels, dict(iou_threshold=.5), self.threshold, self.count)


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, count, 2, generator=generator) * torch.tensor([80., 40.])[:, None, None]
    labels = torch.randint(0, 5, (count,), generator=generator)
    return torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator), labels


@pytest.mark.parametrize('count', [3, 50, 400])
def test_is_torchvisions(count):
    boxes, scores, _ = random_boxes(200, count)
    found = fixed_nms(boxes, scores, .4, .3, count)
    above = (scores > .3).nonzero()[:, 0]
    expected = above[torchvision.ops.nms(boxes[above], scores[above], .4)][:count]
    assert found.shape == (count,) and torch.equal(found[:len(expected)], expected)
    assert (found[len(expected):] == 200).all()


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('threshold', [-.5, .3, 2.])
def test_by_class_is_mmcvs(threshold, agnostic):
    nms, (boxes, scores, labels) = dict(iou_threshold=.5, class_agnostic=agnostic), random_boxes(300, 1)
    above = (scores > threshold).nonzero()[:, 0]
    expected = above[:0] if not len(above) else above[
        batched_nms(boxes[above], scores[above], labels[above], dict(type='nms', **nms))[1]]
    found = nms_by_class(boxes, scores, labels, nms, threshold, 300)
    assert torch.equal(found[:len(expected)], expected) and (found[len(expected):] == 300).all()
    assert (len(expected) == 0) == (threshold == 2)


@pytest.mark.parametrize('threshold', [-.5, .3, 2.])
def test_in_onnx_runtime(threshold, tmp_path):
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    module, dynamic = Suppress(40, threshold).eval(), torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module, random_boxes(60, 0), dynamo=True, verbose=False, input_names=['boxes', 'scores', 'labels'],
        dynamic_shapes=({0: dynamic},) * 3, custom_translation_table={
            torch.ops.mmmambavision.fixed_nms.default: translate_nms})
    program.save(str(tmp_path / 'nms.onnx'))
    session = onnxruntime.InferenceSession(str(tmp_path / 'nms.onnx'))
    for size in (1, 30, 500):
        values = random_boxes(size, size)
        found, = session.run(None, dict(zip(('boxes', 'scores', 'labels'), (value.numpy() for value in values))))
        assert torch.equal(torch.from_numpy(found), module(*values))


def test_fake_tensors():
    torch.library.opcheck(
        fixed_nms, (*random_boxes(9, 0)[:2], .5, .1, 4), test_utils=('test_schema', 'test_faketensor'))
