"""Other token mixers and block patterns for ablations: `arch=dict(..., mixer=, pattern=)`.

A mixer with a scan differs from the default mixer (arXiv 2407.08083, section 3.2 and figure 3) in one property. All
mixers map (B, L, C) to (B, L, C) and take (dim, scan_backend), as `MambaVisionMixer`.
"""
import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .mixers import KERNEL_SIZE, STATE_SIZE, Attention, MambaVisionMixer, call, convolve, linear


class NoConcatMixer(MambaVisionMixer):
    """The branches are multiplied (y z) instead of concatenated.

    This is the gate of the original Mamba block (arXiv 2312.00752, figure 3), with MambaVision's convolution in the
    gate. The width is chosen to keep the number of parameters.
    """

    def __init__(self, dim: int, scan_backend: str = 'auto') -> None:
        width = _width(dim, lambda width: width * (3 * dim + 2 * KERNEL_SIZE) + _scan_parameters(width))
        super().__init__(2 * width, scan_backend)
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, z = convolve(linear(self.in_proj, tokens), self.conv1d_x, self.conv1d_z).chunk(2, dim=-1)
        return linear(self.out_proj, self.scan(x) * z)


class NoSymmetricMixer(MambaVisionMixer):
    """Only the branch with the scan, over all C channels: arXiv 2407.08083, figure 3, without the symmetric branch."""

    def __init__(self, dim: int, scan_backend: str = 'auto') -> None:
        super().__init__(2 * dim, scan_backend)
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)
        del self.conv1d_z

    def forward(self, tokens: Tensor) -> Tensor:
        return linear(self.out_proj, self.scan(convolve(linear(self.in_proj, tokens), self.conv1d_x)))


class CausalMixer(MambaVisionMixer):
    """Causal convolutions, as in the original Mamba block (arXiv 2312.00752, figure 3).

    The kernel covers a token and the two tokens before it. The default kernel covers both neighbours.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        delayed = F.pad(linear(self.in_proj, tokens), (0, 0, 1, 0))
        x, z = convolve(delayed, self.conv1d_x, self.conv1d_z)[:, :-1].chunk(2, dim=-1)
        return linear(self.out_proj, torch.cat([self.scan(x), z], dim=-1))


class BidirectionalMixer(MambaVisionMixer):
    """The sum of a forward scan and a backward scan with its own weights, as in Vision Mamba (arXiv 2401.09417,
    algorithm 1). Both share one convolution, because it is not causal."""

    def __init__(self, dim: int, scan_backend: str = 'auto') -> None:
        super().__init__(dim, scan_backend)
        self.back = _Scan(dim, scan_backend)

    def forward(self, tokens: Tensor) -> Tensor:
        x, z = convolve(linear(self.in_proj, tokens), self.conv1d_x, self.conv1d_z).chunk(2, dim=-1)
        y = self.scan(x) + self.back(x.flip(1)).flip(1)
        return linear(self.out_proj, torch.cat([y, z], dim=-1))


class _Scan(MambaVisionMixer):
    """Only the scan of a mixer."""
    forward = MambaVisionMixer.scan

    def __init__(self, dim: int, scan_backend: str) -> None:
        super().__init__(dim, scan_backend)
        del self.in_proj, self.conv1d_x, self.conv1d_z, self.out_proj


class GatedConvolution(nn.Module):
    """The gated convolution of MambaOut (arXiv 2405.07992, figure 1a), a Mamba block without scan.

    The width is chosen to keep the number of parameters. MambaOut has a 7x7 convolution on the map. This class has the
    1D kernel of the other mixers, so that only the scan is missing. Rows of the map do not exchange information.
    """

    def __init__(self, dim: int, scan_backend: str = 'auto') -> None:
        super().__init__()
        width = _width(dim, lambda width: width * (3 * dim + KERNEL_SIZE))
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.conv1d_x = nn.Conv1d(width, width, KERNEL_SIZE, padding='same', groups=width, bias=False)
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, z = linear(self.in_proj, tokens).chunk(2, dim=-1)
        return linear(self.out_proj, call(self.conv1d_x, x.transpose(1, 2)).transpose(1, 2) * F.silu(z))


def _scan_parameters(width: int) -> int:
    """Number of parameters of `x_proj`, `dt_proj`, A and D for a scan of this width."""
    rank = math.ceil(width / 8)
    return width * (rank + 2 * STATE_SIZE + rank + 1 + STATE_SIZE + 1)


def _width(dim: int, parameters: Callable[[int], int]) -> int:
    """The width with the number of parameters closest to the default mixer of `dim` channels."""
    wanted = 2 * dim ** 2 + dim * KERNEL_SIZE + _scan_parameters(dim // 2)
    return min(range(1, 2 * dim), key=lambda width: abs(parameters(width) - wanted))


MIXERS = {
    'mambavision': MambaVisionMixer, 'no_concat': NoConcatMixer, 'no_symmetric': NoSymmetricMixer,
    'causal': CausalMixer, 'bidirectional': BidirectionalMixer, 'attention': Attention, 'conv': GatedConvolution,
}
# Functions of the number of blocks. M: mixer, S: self-attention (arXiv 2407.08083, ablation of hybrid patterns).
PATTERNS = {
    'last_half': lambda n: 'M' * (n - n // 2) + 'S' * (n // 2),
    'first_half': lambda n: 'S' * (n // 2) + 'M' * (n - n // 2),
    'alternate_ms': lambda n: ('MS' * n)[:n],
    'alternate_sm': lambda n: ('SM' * n)[:n],
    'last_quarter': lambda n: 'M' * (n - math.ceil(n / 4)) + 'S' * math.ceil(n / 4),
    'all_m': lambda n: 'M' * n,
    'all_s': lambda n: 'S' * n,
}


def choose_mixers(arch: dict[str, Any]) -> list[list[type[nn.Module]]]:
    """Mixer classes of the blocks of levels 2 and 3.

    Args:
        arch: dict with depths and optional keys:
            mixer: a name in `MIXERS`; default 'mambavision'.
            pattern: one string for both levels, or two strings for levels 2 and 3; default 'last_half'. A string is a
                name in `PATTERNS`, or 'random:SEED' (with as many S as 'last_half'), or one letter per block: M for
                the mixer, S for self-attention, for example ('MMMMSSSS', 'MMSS').

    Raises:
        UserError: a name is unknown, a letter is wrong, or the number of letters is wrong.
    """
    name, pattern = arch.get('mixer', 'mambavision'), arch.get('pattern', 'last_half')
    if not isinstance(name, str) or name not in MIXERS:
        raise UserError(f"arch.mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    pair = (pattern, pattern) if isinstance(pattern, str) else pattern
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
        raise UserError('arch.pattern must be one string for both levels, or two strings for levels 2 and 3, for '
                        f"example ('MMMMSSSS', 'MMSS'), got {pattern!r}")
    kinds = {'M': MIXERS[name], 'S': Attention}
    return [[kinds[letter] for letter in spell_out(one, level, arch['depths'][level])]
            for level, one in zip((2, 3), pair)]


def spell_out(pattern: str, level: int, depth: int) -> str:
    """The letters of a pattern for a level with `depth` blocks, for example 'MMSS'.

    Raises:
        UserError: the name is unknown, a letter is wrong, or the number of letters is wrong.
    """
    if pattern in PATTERNS:
        return PATTERNS[pattern](depth)
    if pattern.startswith('random:'):
        seed = pattern.removeprefix('random:')
        if not seed.isdecimal():
            raise UserError(f"arch.pattern 'random:SEED' needs an integer, for example 'random:0', got {pattern!r}")
        letters = list(PATTERNS['last_half'](depth))
        random.Random(f'{int(seed)} {level}').shuffle(letters)
        return ''.join(letters)
    if not pattern or set(pattern) - set('MS'):
        raise UserError(f"arch.pattern must be one of {', '.join(PATTERNS)}, 'random:SEED', or letters M (the mixer) "
                        f'and S (self-attention), got {pattern!r}')
    if len(pattern) != depth:
        raise UserError(f'arch.pattern {pattern!r} has {len(pattern)} letters for the {depth} blocks of level {level}. '
                        "Give one string per level, for example ('MMMMSSSS', 'MMSS')")
    return pattern
