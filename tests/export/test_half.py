"""Weights in float16 are the rounded ones, computed with in float32."""
import copy

import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

from mmmambavision.export.contract import Contract  # noqa: E402
from mmmambavision.export.onnx import export, open_model, read  # noqa: E402

CONTRACT = Contract('model', ['a', 'b'], [], 'segmentation', resize=None, align_corners=False, binary_threshold=None)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.large, self.last = torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 5)
        torch.nn.init.constant_(self.large.weight, 1e5)  # more than float16 holds
        self.table = torch.nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, images):
        x = self.first(images) + self.table
        return self.last((self.large(x) * 1e-5).permute(0, 2, 3, 1))


def test_large_weights_alone_are_rounded(tmp_path):
    torch.manual_seed(0)
    module = Small().eval()
    images = torch.randn(2, 3, 24, 20)
    export(module, images, tmp_path / 'half.onnx', half=True, contract=CONTRACT)
    rounded = copy.deepcopy(module)
    with torch.no_grad():
        for layer in (rounded.first, rounded.last):
            layer.weight.copy_(layer.weight.half().float())
        expected, unrounded = rounded(images), module(images)
    session = read(tmp_path / 'half.onnx')
    found = torch.from_numpy(session.run(None, dict(images=images.numpy()))[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (unrounded - expected).abs().max() > 1e-4
    stored = {tuple(tensor.dims): tensor.data_type for tensor in onnx.load(tmp_path / 'half.onnx').graph.initializer}
    half = {shape for shape, kind in stored.items() if kind == onnx.TensorProto.FLOAT16}
    assert half == {(8, 3, 3, 3), (8, 5)} and {(8, 8, 1, 1), (8, 1, 1), (8,), (5,)} <= stored.keys() - half
    assert Contract.of_session(session) == CONTRACT


def test_metadata_of_others_is_left_out(tmp_path):
    export(Small().eval(), torch.randn(2, 3, 16, 16), tmp_path / 'm.onnx', contract=CONTRACT)
    model = onnx.load(tmp_path / 'm.onnx')
    model.metadata_props.add(key='producer', value='not json')
    onnx.save(model, tmp_path / 'n.onnx')
    assert Contract.of_session(read(tmp_path / 'n.onnx')) == CONTRACT
    found, = read(tmp_path / 'n.onnx').run(None, dict(images=np.zeros((3, 3, 9, 7), np.float32)))
    assert found.shape == (3, 9, 7, 5)


def test_a_file_of_another_task_or_program_is_refused(tmp_path):
    export(Small().eval(), torch.randn(2, 3, 16, 16), tmp_path / 'm.onnx', contract=CONTRACT)
    assert open_model(tmp_path / 'm.onnx', 'segmentation')[1] == CONTRACT
    with pytest.raises(ValueError, match='segmentation'):
        open_model(tmp_path / 'm.onnx', 'detection')
    export(Small().eval(), torch.randn(2, 3, 16, 16), tmp_path / 'n.onnx')
    assert Contract.of_session(read(tmp_path / 'n.onnx')) is None
    with pytest.raises(ValueError, match='another model'):
        open_model(tmp_path / 'n.onnx', 'segmentation')
