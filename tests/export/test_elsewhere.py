"""Networks in other runtimes: OpenVINO, and the snippet of docs/export.md with AOTInductor."""
import re
import shutil

import numpy as np
import pytest
import torch

from mmmambavision import MambaVision
from mmmambavision.export.onnx import export

from ..helpers.nets import NANO
from ..helpers.process import ROOT


@pytest.mark.slow
@pytest.mark.parametrize('window', [None, (14, 7)])
def test_openvino(window, tmp_path):
    openvino = pytest.importorskip('openvino')
    pytest.importorskip('onnxscript')
    torch.manual_seed(0)
    network = MambaVision(NANO, window_size=window).eval()
    export(network, torch.randn(2, 3, 200, 264), tmp_path / 'm.onnx')
    compiled = openvino.Core().compile_model(tmp_path / 'm.onnx', 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for shape in ((1, 3, 64, 64), (2, 3, 192, 256), (1, 3, 427, 333)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = network(images)
        found = compiled({'images': images.numpy()}).values()
        assert max(np.abs(a.numpy() - b).max() for a, b in zip(expected, found, strict=True)) < 1e-4


@pytest.mark.full
@pytest.mark.skipif(not shutil.which('g++'), reason='AOTInductor compiles C++')
def test_aotinductor_snippet(tmp_path, monkeypatch):
    """As docs/export.md has it, of a smaller network."""
    snippets = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'export.md').read_text(), re.DOTALL)
    snippet, = (text for text in snippets if 'aoti_load_package' in text)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = dict(NANO=NANO)
    exec(snippet.replace("'tiny'", 'NANO'), names)
    for shape in ((1, 3, 64, 64), (3, 3, 100, 130)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = names['backbone'](images)
        for a, b in zip(expected, names['compiled'](images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
