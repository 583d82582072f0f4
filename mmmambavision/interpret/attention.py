"""Self-attention as maps (Vaswani et al. 2017, arXiv 1706.03762, eq. 1)."""
from collections.abc import Sequence

import torch

from ..models.mixers import Attention
from .tokens import Block

MOST_WEIGHTS = 2 ** 25  # computed at once; an 800x1344 image has 4200 x 4200 weights per head at level 2


def attention_weights(mixer: Attention, tokens: torch.Tensor,
                      queries: slice | Sequence[int] | torch.Tensor = slice(None)) -> torch.Tensor:
    """softmax(q k^T / sqrt(C / heads)) of an `Attention`.

    Args:
        mixer: the `Attention`.
        tokens: its input (B, L, C).
        queries: indices of the query tokens; default: all.

    Returns:
        (B, heads, queries, L). Each row has the weights of one query on all tokens of its window, and sums to 1.
    """
    q, k, _ = mixer.qkv(tokens).unflatten(2, (3, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q[:, :, queries] @ k.transpose(-2, -1) / q.shape[-1] ** .5).softmax(-1)


@torch.no_grad()
def attention_map(block: Block, image: torch.Tensor, token: tuple[int, int] | None = None) -> torch.Tensor:
    """The attention of one token, or the mean attention of all tokens.

    Args:
        block: a block with an `Attention`, from `find_block`.
        image: (1, 3, H, W), normalised.
        token: the query (row, column); None for the mean over the queries of each window, without padding.

    Returns:
        (heads, height, width). A query sees only its window, so the map is 0 elsewhere. In padded windows the sum is
        less than 1, because part of the attention goes to the padding.
    """
    tokens, _, windows = block.run(image, block.mixer)
    sequences, length, channels = tokens.shape
    tokens = tokens.reshape(sequences * length, channels)
    positions = windows.positions().flatten()
    weights = tokens.new_zeros(len(tokens), block.mixer.num_heads)
    for window in windows.attention_windows():
        if token is None:
            weights[window] = _mean_over_queries(block.mixer, tokens[window], positions[window] >= 0)
            continue
        for number, query in (positions[window] == token[0] * windows.width + token[1]).nonzero().tolist():
            weights[window[number]] = attention_weights(block.mixer, tokens[window[number]][None], [query])[0, :, 0].T
    return windows.to_map(weights.reshape(sequences, length, -1))[0].permute(2, 0, 1)


def _mean_over_queries(mixer: Attention, tokens: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean attention (B, L, heads) over the queries in the mask `counted` (B, L)."""
    count, length, _ = tokens.shape
    step = max(1, MOST_WEIGHTS // (count * mixer.num_heads * length))
    total: torch.Tensor | float = 0.
    for queries in torch.arange(length, device=tokens.device).split(step):
        total = total + (attention_weights(mixer, tokens, queries) * counted[:, None, queries, None]).sum(2)
    return (total / counted.sum(1)[:, None, None]).transpose(1, 2)
