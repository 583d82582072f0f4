"""The token mixers and the MLP of a hybrid block. All map (B, L, C) to (B, L, C)."""
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as module_hooks

from ..errors import UserError
from ..ops import attention, depthwise_silu, selective_scan

FORWARDS = {kind: kind.forward for kind in (nn.Linear, nn.Conv1d)}  # to notice patches of a class
STATE_SIZE = 8
KERNEL_SIZE = 3


def is_plain(layer, kind, device):
    """Whether a layer is a plain layer of type `kind` with its weights on `device`.

    Only then its weights can be used without a call of the layer. Hooks, adapters, pruning, parametrization,
    quantization, offloading and sharding change the call, or replace the weight by another type.
    """
    return type(layer) is kind and (torch.compiler.is_compiling() or kind.forward is FORWARDS[kind]) and (
        'forward' not in layer.__dict__) and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        or module_hooks._has_any_global_hook()) and all(
        is_plain_tensor(value, device) for value in (layer.weight, layer.bias) if value is not None)


def is_plain_tensor(value, device):
    """Whether a weight is a plain tensor on `device`. During compilation, all weights count as plain."""
    return torch.compiler.is_compiling() or (type(value) in (nn.Parameter, torch.Tensor) and value.device == device)


def call(layer, x):
    """`layer(x)` for a linear layer or a convolution, with a check for weights on the meta device.

    For such weights, torch returns uninitialised memory on a CPU.

    Raises:
        UserError: a weight is on the meta device, and the layer has no hook that could load it.
    """
    if (type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d) and not x.is_meta and 'forward' not in layer.__dict__
            and not layer._forward_pre_hooks and any(value.is_meta for value in layer.parameters(recurse=False))):
        raise UserError(f"the weights of {layer} have no values (they are on the device 'meta'). Load a checkpoint "
                        'with values')
    return layer(x)


def linear(layer, tokens):
    """`layer(tokens)` for tokens (B, L, C), on a CPU as a 1x1 convolution.

    On a CPU, torch uses oneDNN for float32 convolutions and BLAS for linear layers. BLAS is slower on some CPUs (20% on
    an AMD EPYC with MKL) and adds the bias in a separate pass. Compiled and exported graphs keep linear layers.
    """
    if (torch.compiler.is_compiling() or tokens.device.type != 'cpu' or tokens.dtype != torch.float32
            or not is_plain(layer, nn.Linear, tokens.device)):
        return call(layer, tokens)
    image = tokens.transpose(1, 2).unsqueeze(2)  # (B, C, 1, L), channels-last in memory
    return F.conv2d(image, layer.weight[:, :, None, None], layer.bias).squeeze(2).transpose(1, 2)


class MambaVisionMixer(nn.Module):
    """MambaVision mixer: a selective scan over one half of the channels, concatenated with a convolution branch over
    the other half (arXiv 2407.08083, section 3.2).

    Args:
        dim: channels C, even. Each branch has C / 2 channels.
        scan_backend: implementation of the scan, see `mmmambavision.ops.selective_scan`.
    """

    def __init__(self, dim, scan_backend='auto'):
        super().__init__()
        inner = dim // 2
        self.step_rank = math.ceil(dim / 16)
        self.scan_backend = scan_backend
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.conv1d_x = nn.Conv1d(inner, inner, KERNEL_SIZE, padding='same', groups=inner, bias=False)
        self.conv1d_z = nn.Conv1d(inner, inner, KERNEL_SIZE, padding='same', groups=inner, bias=False)
        self.x_proj = nn.Linear(inner, self.step_rank + 2 * STATE_SIZE, bias=False)
        self.dt_proj = nn.Linear(self.step_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, STATE_SIZE + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens):
        x, z = convolve(linear(self.in_proj, tokens), self.conv1d_x, self.conv1d_z).chunk(2, dim=-1)
        return linear(self.out_proj, torch.cat([self.scan(x), z], dim=-1))

    def scan(self, x):
        """The selective scan of x (B, L, c). Steps, B and C are computed from x."""
        step, B, C = call(self.x_proj, x).split([self.step_rank, STATE_SIZE, STATE_SIZE], dim=-1)
        delta, bias = steps_and_bias(self.dt_proj, step)
        # The step bias is added twice, in the projection and in the scan, as in the training of the checkpoints.
        return selective_scan(
            x.transpose(1, 2), delta.transpose(1, 2), -self.A_log.float().exp(), B.transpose(1, 2),
            C.transpose(1, 2), self.D.float(), delta_bias=bias.float(), delta_softplus=True,
            backend=self.scan_backend).transpose(1, 2)


def steps_and_bias(layer, inputs):
    """`layer(inputs)` and the bias [out] of a linear layer, with one call of the layer.

    For a plain layer, the bias is read after the call, because a pre-forward hook (for example pruning) can change it.
    Otherwise the bias may exist only during the call, for example with offloading. Then the bias is the output for an
    additional token of zeros.
    """
    if (type(layer) is nn.Linear and 'forward' not in layer.__dict__ and layer.bias is not None
            and not (layer._forward_pre_hooks and layer._forward_hooks)
            and is_plain_tensor(layer.bias, inputs.device)):
        return call(layer, inputs), layer.bias
    outputs = call(layer, F.pad(inputs, (0, 0, 0, 1)))
    return outputs[:, :-1], outputs[0, -1]


def convolve(tokens, *layers):
    """Depthwise convolutions and SiLU in one pass over (B, L, C), channels-last. Each layer has its own channels."""
    if not all(is_plain(layer, nn.Conv1d, tokens.device) for layer in layers):
        parts = tokens.transpose(1, 2).chunk(len(layers), dim=1)
        return F.silu(torch.cat([call(layer, part) for layer, part in zip(layers, parts)], 1).transpose(1, 2))
    return depthwise_silu(tokens, torch.cat([layer.weight for layer in layers]))


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a window (Vaswani et al. 2017, eq. 1).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads, each of size C / num_heads.
    """

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens, keep=None, cut=None):
        """Attention over all L tokens, or in the windows of `cut`. Arguments as in `HybridBlock.forward`."""
        qkv = linear(self.qkv, tokens).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, L, C / heads) each
        if cut is not None:
            mixed = cut.attend(attention, q, k, v)
        else:
            mixed = attention(q if keep is None else q[:, :, keep], k, v)
        return linear(self.proj, mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, (B, L, C) to (B, L, C), with `hidden` channels."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens):
        return linear(self.fc2, self.act(linear(self.fc1, tokens)))
