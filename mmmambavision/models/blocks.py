"""Stem, downsampling and the residual blocks of the four levels."""
import torch
import torch.nn.functional as F
from torch import nn

from .mixers import Attention, MambaVisionMixer, Mlp, call


class Sequential(nn.Sequential):
    """`nn.Sequential` that raises an error for weights on the meta device, see `call`."""

    def forward(self, x):
        for layer in self:
            x = call(layer, x)
        return x


class Stem(nn.Module):
    """Two convolutions of stride 2: an image (B, in_channels, H, W) to (B, dim, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, in_channels, in_dim, dim):
        super().__init__()
        self.conv_down = Sequential(
            nn.Conv2d(in_channels, in_dim, 3, 2, 1, bias=False), nn.BatchNorm2d(in_dim, eps=1e-4),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_dim, dim, 3, 2, 1, bias=False), nn.BatchNorm2d(dim, eps=1e-4), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.conv_down(x)


class Downsample(nn.Module):
    """(B, C, H, W) to (B, 2C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, dim):
        super().__init__()
        self.reduction = Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False))

    def forward(self, x):
        return self.reduction(x)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016).

    In training, the branch of a sample becomes 0 with probability `drop_prob` < 1. The other branches are scaled to
    keep the mean.
    """

    def __init__(self, drop_prob=0.):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch):
        if not self.training or self.drop_prob == 0.:
            return branch
        keep = 1. - self.drop_prob
        return branch * branch.new_empty(branch.shape[0], *[1] * (branch.dim() - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self):
        return f'drop_prob={self.drop_prob:.3f}'


class LayerNorm(nn.LayerNorm):
    """LayerNorm that can be trained in 16 bits on a CPU.

    There torch sums the parameter gradients in the type of the input, and in bfloat16 256 + 1 = 256. So with gradients
    enabled, this layer computes in float32, as autocast does on a GPU.
    """

    def forward(self, x):
        if x.is_cpu and x.dtype in (torch.bfloat16, torch.float16) and torch.is_grad_enabled():
            return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(),
                                self.eps).to(x.dtype)
        return super().forward(x)


def _layer_scale(dim, value):
    return None if value is None else nn.Parameter(torch.full((dim,), float(value)))


def _scaled(branch, gamma):
    return branch if gamma is None else gamma * branch


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions, (B, C, H, W) to (B, C, H, W) (arXiv 2407.08083, section 3.1).

    Args:
        dim: channels C.
        drop_path: probability of stochastic depth in training.
    """

    def __init__(self, dim, drop_path=0.):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, 1, 1)
        self.norm1 = nn.BatchNorm2d(dim)
        self.act1 = nn.GELU(approximate='tanh')
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        branch = self.act1(self.norm1(call(self.conv1, x)))
        return x + self.drop_path(self.norm2(call(self.conv2, branch)))


class HybridBlock(nn.Module):
    """Residual token mixer and residual MLP, (B, L, C) to (B, L, C) (arXiv 2407.08083, section 3.2).

    Args:
        dim: channels C.
        num_heads: heads of self-attention; None for the class `mixer`.
        mlp_ratio: hidden size of the MLP divided by C.
        drop_path: probability of stochastic depth in training, for each branch.
        layer_scale: initial value of the learned scale per channel of both branches; None for no scale.
        scan_backend: see `MambaVisionMixer`.
        mixer: class of the token mixer without self-attention, see `variants.py`.
    """

    def __init__(self, dim, num_heads=None, mlp_ratio=4., drop_path=0., layer_scale=None, scan_backend='auto',
                 mixer=MambaVisionMixer):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.mixer = mixer(dim, scan_backend) if num_heads is None else Attention(dim, num_heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = _layer_scale(dim, layer_scale)
        self.gamma_2 = _layer_scale(dim, layer_scale)

    def forward(self, tokens, keep=None, cut=None):
        """
        Args:
            tokens: (B, L, C).
            keep: indices of the tokens to return; None for all.
            cut: `BalancedWindows` for attention; None for attention over all L tokens.
        """
        normed = self.norm1(tokens)
        mixed = self.mixer(normed, keep, cut) if isinstance(self.mixer, Attention) else self.mixer(normed)
        if keep is not None:
            tokens = tokens[:, keep]
            mixed = mixed if isinstance(self.mixer, Attention) else mixed[:, keep]
        tokens = tokens + self.drop_path(_scaled(mixed, self.gamma_1))
        return tokens + self.drop_path(_scaled(self.mlp(self.norm2(tokens)), self.gamma_2))
