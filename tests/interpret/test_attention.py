import numpy as np
import pytest
import torch

from mmmambavision.interpret import attention
from mmmambavision.interpret.attention import attention_map, attention_weights
from mmmambavision.interpret.tokens import find_block
from mmmambavision.models.mixers import Attention


def by_definition(mixer, tokens):
    """softmax(q k^T / sqrt(d)), token by token and head by head in numpy."""
    weight, bias = mixer.qkv.weight.detach().numpy(), mixer.qkv.bias.detach().numpy()
    length, dim = tokens.shape
    size = dim // mixer.num_heads
    projected = tokens.numpy() @ weight.T + bias
    out = np.zeros((mixer.num_heads, length, length))
    for head in range(mixer.num_heads):
        q = projected[:, head * size:(head + 1) * size]
        k = projected[:, dim + head * size:dim + (head + 1) * size]
        for i in range(length):
            scores = np.exp([q[i] @ k[j] / np.sqrt(size) for j in range(length)])
            out[head, i] = scores / scores.sum()
    return out


def test_weights_are_the_softmax_and_sum_to_one():
    torch.manual_seed(0)
    mixer, tokens = Attention(12, 3).double(), torch.randn(2, 7, 12, dtype=torch.float64)
    torch.nn.init.normal_(mixer.qkv.weight)
    with torch.no_grad():
        weights = attention_weights(mixer, tokens)
        rows = attention_weights(mixer, tokens, [4, 2])
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    for i in (0, 1):
        np.testing.assert_allclose(weights[i], by_definition(mixer, tokens[i]), rtol=1e-12)
    torch.testing.assert_close(rows, weights[:, :, [4, 2]])
    # What the network makes of its values with these weights is what its own attention gives.
    v = mixer.qkv(tokens).unflatten(2, (3, 3, 4))[:, :, 2].transpose(1, 2)
    torch.testing.assert_close(mixer.proj((weights @ v).transpose(1, 2).flatten(2)), mixer(tokens))


@pytest.mark.parametrize('window', [None, 4, 7, 16])
@pytest.mark.parametrize('token', [(0, 0), (5, 9)])
def test_map_of_a_token_is_its_row(window, token, network, image):
    trunk = network(window)
    block = find_block(trunk, Attention, '2.2')
    found = attention_map(block, image, token)
    assert found.shape == (4, 7, 10)
    # The other way: cut the map of the level's input by hand around the token.
    inputs = []
    block.mixer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    trunk(image)
    side = window or 10
    rows, columns = -(-7 // side), -(-10 // side)
    row, column = token
    number = 0 if window is None else row // side * columns + column // side
    local = row * 10 + column if window is None else row % side * side + column % side
    assert window is None or len(inputs[0]) == rows * columns
    weights = by_definition(block.mixer, inputs[0][number].detach())[:, local].reshape(4, -1, side)
    expected = np.zeros((4, rows * side, columns * side))
    top, left = row // side * side, column // side * side
    expected[:, top:top + weights.shape[1], left:left + side] = weights
    np.testing.assert_allclose(found, expected[:, :7, :10], rtol=1e-9, atol=1e-15)
    total = found.sum((1, 2))
    assert (total < 1 - 1e-6).all() if window == 16 else (total <= 1 + 1e-12).all()
    if window is None:
        torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize('token, rows, columns', [((0, 0), (0, 4), (0, 4)), ((3, 4), (0, 4), (4, 7)),
                                                  ((6, 9), (4, 7), (7, 10))])
def test_map_in_balanced_windows(token, rows, columns, network, image):
    """The 7 x 10 map is cut into windows of 4 and 3 rows, and of 4, 3 and 3 columns."""
    trunk = network(('balanced', 4))
    block = find_block(trunk, Attention, '2.2')
    inputs = []
    block.mixer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    trunk(image)
    inside = inputs[0].detach().reshape(7, 10, -1)[slice(*rows), slice(*columns)]
    height, width = inside.shape[:2]
    query = (token[0] - rows[0]) * width + token[1] - columns[0]
    expected = np.zeros((4, 7, 10))
    expected[:, slice(*rows), slice(*columns)] = by_definition(
        block.mixer, inside.reshape(height * width, -1))[:, query].reshape(4, height, width)
    np.testing.assert_allclose(attention_map(block, image, token), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize('window', [None, 4, 16, ('balanced', 4)])
@pytest.mark.parametrize('most', [1, pytest.param(2 ** 25, marks=pytest.mark.slow)])
def test_mean_over_queries(window, most, network, image, monkeypatch):
    """A chunk at a time or at once, it is the mean of the maps of all tokens, each window by itself."""
    monkeypatch.setattr(attention, 'MOST_WEIGHTS', most)
    block = find_block(network(window), Attention)
    singles = torch.stack([attention_map(block, image, (i, j)) for i in range(7) for j in range(10)])
    inside = (singles[:, 0] > 0).sum(0)  # how many queries a token is seen by: those of its window
    torch.testing.assert_close(attention_map(block, image), singles.sum(0) / inside)
