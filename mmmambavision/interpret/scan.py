"""Memory of the states of a MambaVision mixer (arXiv 2407.08083, section 3.2; arXiv 2312.00752, eq. 2).

The state of channel d and index n is h_t = exp(step_t,d A_d,n) h_t-1 + ... with A < 0. So each token multiplies the
previous state by exp(step A).
"""
import math

import torch
import torch.nn.functional as F

from ..models.windows import WholeMap
from .tokens import Block


def steps_and_rates(block: Block, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, WholeMap]:
    """Steps and decay rates of a mixer on an image.

    Args:
        block: a block with a `MambaVisionMixer`, from `find_block`.
        image: (1, 3, H, W), normalised.

    Returns:
        Steps (sequences, L, c) and rates A (c, N), both float64, and the windows of the map (see `models/windows.py`).
    """
    mixer = block.mixer
    _, projected, windows = block.run(image, mixer.dt_proj)
    # The bias is added twice, in the projection and in the scan, because the checkpoints were trained this way.
    steps = F.softplus((projected + mixer.dt_proj.bias.detach()).double())
    return steps, -mixer.A_log.detach().double().exp(), windows


def half_life(steps: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """Half-life of each state in tokens, at the mean step: ln 2 / (step |A|).

    Args:
        steps: (tokens, c).
        A: rates (c, N).

    Returns:
        (c, N), in tokens. After L tokens, a state keeps the fraction 2^(-L / half_life).
    """
    return math.log(2) / (steps.mean(0)[:, None] * A.abs())


def reach(steps: torch.Tensor, A: torch.Tensor, start: int) -> torch.Tensor:
    """The fraction of the input of the token at `start` that remains in the state after each token.

    Args:
        steps: (L, c), for one sequence.
        A: rates (c, N).
        start: index of the token.

    Returns:
        (L, c, N): 0 before the token, 1 at the token, then the product of the decays exp(step A) of later tokens.
    """
    since = steps.cumsum(0)
    since = (since - since[start])[start:, :, None]
    return F.pad((since * A).exp(), (0, 0, 0, 0, start, 0))


@torch.no_grad()
def scan_maps(block: Block, image: torch.Tensor, token: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """`reach` of a token on the map, and the half-lives over all tokens of an image.

    Args:
        block, image: see `steps_and_rates`.
        token: (row, column).

    Returns:
        Reach, mean over channels (N, height, width), 0 outside the token's sequence; half-lives (c, N) in tokens,
        computed without padding.
    """
    steps, A, windows = steps_and_rates(block, image)
    positions = windows.positions()
    (number, start), = (positions == token[0] * windows.width + token[1]).nonzero().tolist()
    reached = steps.new_zeros(*steps.shape[:2], A.shape[1])
    reached[number] = reach(steps[number], A, start).mean(1)
    return windows.to_map(reached)[0].permute(2, 0, 1), half_life(steps[positions >= 0], A)
