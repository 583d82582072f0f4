import pytest
import torch
from torch import nn

from mmmambavision import MambaVision
from mmmambavision.interpret.tokens import find_block, trunk_of
from mmmambavision.models.mixers import Attention, MambaVisionMixer
from mmmambavision.models.windows import windows_of

from ..helpers.messages import facts
from ..helpers.nets import DEEPER


def test_blocks_by_name(network):
    trunk = network()
    assert find_block(trunk, Attention).name == '2.2' and find_block(trunk, MambaVisionMixer).name == '2.1'
    assert find_block(trunk, Attention, '3.1').mixer is trunk.levels[3].blocks[1].mixer
    assert [find_block(trunk, Attention, name).stride for name in ('2.2', '3.1')] == [16, 32]
    with pytest.raises(ValueError, match=facts('2.0', 'Attention', '2.2, 3.1')):
        find_block(trunk, Attention, '2.0')
    with pytest.raises(ValueError, match='2.0, 2.1, 3.0'):
        find_block(trunk, MambaVisionMixer, '7')
    shallow = MambaVision({**DEEPER, 'depths': (1, 1, 1, 2)})
    assert find_block(shallow, Attention).name == '3.1'
    with pytest.raises(ValueError, match=facts('2 levels', 'Attention')):
        find_block(MambaVision(DEEPER, out_indices=(0, 1)), Attention)


def test_the_network_in_a_model(network):
    trunk = network()
    assert trunk_of(nn.Sequential(nn.Identity(), trunk)) is trunk
    with pytest.raises(ValueError, match=facts('Linear', 'MambaVision')):
        trunk_of(nn.Linear(1, 1))


@pytest.mark.parametrize('window', [None, 4, 7, 16, ('balanced', 4)])
def test_tokens_go_where_they_came_from(window):
    windows = windows_of(window, 7, 10)
    numbers = torch.arange(1, 71).reshape(1, 7, 10, 1)
    tokens = windows.to_tokens(numbers)
    assert torch.equal(windows.to_map(tokens), numbers)
    assert torch.equal(windows.positions(), tokens[..., 0] - 1)  # padding is 0 in the tokens
    seen = torch.cat([group.flatten() for group in windows.attention_windows()])
    assert torch.equal(seen.sort()[0], torch.arange(tokens[..., 0].numel()))
