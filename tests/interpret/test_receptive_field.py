import pytest
import torch
from torch import nn

from mmmambavision import MambaVision
from mmmambavision.interpret.receptive_field import centre_gradient, effective_receptive_field, radius_of_half
from mmmambavision.models.blocks import Stem

from ..helpers.nets import DEEPER


def support(field):
    """First and last row, first and last column of what is not 0."""
    rows, columns = field.sum(1).nonzero().flatten(), field.sum(0).nonzero().flatten()
    return [side[i].item() for side in (rows, columns) for i in (0, -1)]


def test_support_of_an_untrained_stem_is_its_receptive_field():
    """Two 3x3 convolutions of stride 2: 3 + 2 * 2 = 7 pixels, all of them, around pixel (stride i, stride j)."""
    torch.manual_seed(0)
    stem = Stem(3, 16, 32).eval()
    field, centre = centre_gradient(stem, torch.randn(1, 3, 50, 65), 4)
    assert centre == (24, 32)  # the map is 13 x 17
    assert support(field) == [21, 27, 29, 35]
    assert (field[21:28, 29:36] > 0).all()


@pytest.mark.parametrize('level, depths, reach', [(0, (2, 1), 3 + 2 * 2 * 4), (1, (2, 1), 3 + 2 * 2 * 4 + 4 + 2 * 8)])
def test_support_of_levels_of_convolutions(level, depths, reach):
    """Every 3x3 convolution adds its input's stride at both sides; a block has two, a downsampling one."""
    torch.manual_seed(0)
    trunk = MambaVision({**DEEPER, 'depths': (*depths, 1, 1)}, out_indices=(0, 1), drop_path_rate=0.).double().eval()
    images = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    field, (row, column) = centre_gradient(lambda x: trunk.level_maps(x, level + 1)[level], images, 4 * 2 ** level)
    assert (row, column) == (80, 80)
    assert support(field) == [80 - reach, 80 + reach] * 2


def test_gradient_is_that_of_differences():
    torch.manual_seed(0)
    stem = Stem(3, 4, 4).double().eval()
    images = torch.randn(1, 3, 20, 20, dtype=torch.float64)

    def value(changed):
        with torch.no_grad():
            return stem(changed)[0, :, 2, 2].mean().item()

    expected = torch.zeros(20, 20, dtype=torch.float64)
    for channel, row, column in torch.cartesian_prod(torch.arange(3), *[torch.arange(4, 13)] * 2).tolist():
        step = torch.zeros_like(images)
        step[0, channel, row, column] = 1e-6
        expected[row, column] += abs(value(images + step) - value(images - step)) / 2e-6
    torch.testing.assert_close(centre_gradient(stem, images, 4)[0], expected, rtol=1e-6, atol=1e-9)


def test_fields_of_other_sizes_lie_on_each_other_by_their_centres():
    conv = nn.Conv2d(3, 1, 3, stride=2, padding=1, bias=False).double()
    sizes = [(8, 20), (16, 6), (9, 9)]
    one = centre_gradient(conv, torch.zeros(1, 3, 8, 8, dtype=torch.float64), 2)[0][3:6, 3:6]
    field, centre = effective_receptive_field(conv, (torch.zeros(1, 3, *s, dtype=torch.float64) for s in sizes), 2)
    row, column = centre
    torch.testing.assert_close(field[row - 1:row + 2, column - 1:column + 2], one)
    assert support(field) == [row - 1, row + 1, column - 1, column + 1]
    assert field.shape[0] >= 16 and field.shape[1] >= 20


def test_radius_of_half():
    rows, columns = torch.meshgrid(torch.arange(201.) - 90, torch.arange(201.) - 110, indexing='ij')
    disc = (rows ** 2 + columns ** 2 <= 80 ** 2).float()
    assert radius_of_half(disc, (90, 110)) == pytest.approx(80 / 2 ** .5, abs=.6)
    gaussian = torch.exp(-(rows ** 2 + columns ** 2) / (2 * 15 ** 2))
    assert radius_of_half(gaussian, (90, 110)) == pytest.approx(15 * 1.1774, abs=.3)  # sqrt(2 ln 2) deviations
    spike = torch.zeros(5, 5)
    spike[2, 2] = 1
    assert radius_of_half(spike, (2, 2)) == 0
