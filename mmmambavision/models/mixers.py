"""The two token mixers of a hybrid block; both map (B, L, C) to (B, L, C)."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from ..ops import selective_scan
from .linear import Linear


class MambaVisionMixer(nn.Module):
    """Selective scan over one half of the channels beside a convolved gate of the other (arXiv 2407.08083, section 3.2).

    Args:
        dim: channels C, even. The scan and the gate each take C / 2.
        state_size: N, the states per channel.
        kernel_size: length of the depthwise convolutions over the sequence.
        scan_backend: implementation of the scan, see `mmmambavision.ops.selective_scan`.
    """

    def __init__(self, dim, state_size=8, kernel_size=3, scan_backend='auto'):
        super().__init__()
        inner = dim // 2
        self.state_size, self.step_rank = state_size, math.ceil(dim / 16)
        self.scan_backend = scan_backend
        self.in_proj = Linear(dim, dim, bias=False)
        self.conv1d_x = nn.Conv1d(inner, inner, kernel_size, padding='same', groups=inner, bias=False)
        self.conv1d_z = nn.Conv1d(inner, inner, kernel_size, padding='same', groups=inner, bias=False)
        self.x_proj = nn.Linear(inner, self.step_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.step_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state_size + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = Linear(dim, dim, bias=False)

    def forward(self, tokens):
        x, z = self._convolve(self.in_proj(tokens)).chunk(2, dim=-1)
        step, B, C = self.x_proj(x).split([self.step_rank, self.state_size, self.state_size], dim=-1)
        # Checkpoints were trained with the step bias counted twice: in the projection and in the scan.
        y = selective_scan(
            x.transpose(1, 2), F.linear(step, self.dt_proj.weight).transpose(1, 2), -self.A_log.float().exp(),
            B.transpose(1, 2), C.transpose(1, 2), self.D.float(), delta_bias=2 * self.dt_proj.bias.float(),
            delta_softplus=True, backend=self.scan_backend).transpose(1, 2)
        return self.out_proj(torch.cat([y, z], dim=-1))

    def _convolve(self, xz):
        """Both depthwise convolutions and their SiLU in one pass over (B, L, C), kept channels-last."""
        weight = torch.cat([self.conv1d_x.weight, self.conv1d_z.weight]).unsqueeze(2)
        image = xz.transpose(1, 2).unsqueeze(2)  # (B, C, 1, L), channels-last as it lies in memory
        out = F.conv2d(image, weight, padding=(0, weight.shape[-1] // 2), groups=weight.shape[0])
        return F.silu(out.squeeze(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a window (Vaswani et al. 2017, eq. 1).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads, each of size C / num_heads.
    """

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, tokens, queries=None):
        """Attend from `queries` (B, Q, C), by default all of `tokens` (B, L, C), to `tokens`."""
        if queries is None:
            q, k, v = self._heads(self.qkv(tokens), 3)
        else:
            weights, biases = (t.split([self.qkv.in_features, 2 * self.qkv.in_features]) for t in
                               (self.qkv.weight, self.qkv.bias))
            q, = self._heads(F.linear(queries, weights[0], biases[0]), 1)
            k, v = self._heads(F.linear(tokens, weights[1], biases[1]), 2)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x, parts):
        """(B, L, parts * C) to `parts` tensors of (B, heads, L, C / heads)."""
        return x.unflatten(2, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
