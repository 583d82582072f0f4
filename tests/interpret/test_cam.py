import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmambavision.interpret.cam import grad_cam, load_grad_cam

from ..helpers.messages import facts


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(ValueError, match=facts('pip install scikit-learn ttach', 'pip install --no-deps grad-cam')):
        load_grad_cam()


@pytest.mark.parametrize('level', [1, 3])
def test_is_the_formula(level, network, image):
    """Selvaraju et al., eq. 1 and 2: relu(sum_k mean(d score / d map_k) map_k), from 0 to 1."""
    pytest.importorskip('pytorch_grad_cam')
    trunk = network().requires_grad_(False)

    def score(images):
        return (trunk(images)[3] ** 2)[:, 5].mean()

    found = grad_cam(trunk, trunk.levels[level], image, score)
    kept = []
    handle = trunk.levels[level].register_forward_hook(lambda *call: kept.append(call[2]))
    value = score(image.requires_grad_())
    handle.remove()
    gradient, = torch.autograd.grad(value, kept[0])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu().detach()
    expected = F.interpolate(expected / expected.max(), image.shape[2:], mode='bilinear')[0, 0]
    assert found.shape == (100, 150) and (found.min(), found.max()) == (0, pytest.approx(1, abs=1e-6))
    np.testing.assert_allclose(found, expected / expected.max(), atol=.03)  # lowest and highest are not at pixels
    assert not trunk.levels[level]._forward_hooks
