import pytest
import torch

from mmmambavision import MambaVision

from ..helpers.nets import DEEPER


@pytest.fixture
def network():
    """Function of `window_size` to a backbone with weights of ordinary size, in float64."""
    def build(window_size=None):
        torch.manual_seed(0)
        trunk = MambaVision(DEEPER, window_size, drop_path_rate=0.).double().eval()
        for name, parameter in trunk.named_parameters():
            if 'mixer' in name and 'A_log' not in name:
                torch.nn.init.normal_(parameter, std=.3)
        return trunk
    return build


@pytest.fixture
def image():
    """An image whose map has 7 x 10 tokens at level 2, 4 x 5 at level 3."""
    return torch.randn(1, 3, 100, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
