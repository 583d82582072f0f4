"""The public function `depthwise_silu`, its implementations, and the choice among them."""
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..registry import Backend, Operator
from ..transforms import under_functional_transform
from . import triton


def depthwise_torch(x: Tensor, weight: Tensor) -> Tensor:
    image = x.transpose(1, 2).unsqueeze(2)  # (B, C, 1, L), channels-last in memory
    out = F.conv2d(image, weight.unsqueeze(2), padding=(0, 1), groups=weight.shape[0])
    return F.silu(out.squeeze(2).transpose(1, 2))


def depthwise_shifted(x: Tensor, weight: Tensor) -> Tensor:
    """Three multiply-adds of shifted copies."""
    before, here, after = weight.to(x.dtype)[:, 0].unbind(1)
    padded = F.pad(x, (0, 0, 1, 1))
    return F.silu(before * padded[:, :-2] + here * x + after * padded[:, 2:])


BACKENDS = {'torch': Backend(depthwise_torch), 'shifted': Backend(depthwise_shifted),
            'triton': Backend(triton.forward, triton.unavailable, lambda x, weight: triton.refuses(x))}
# The other implementations have not been measured on a GPU yet.
DEPTHWISE = Operator('depthwise', 'depthwise_silu', BACKENDS, ('torch',))
available_backends = DEPTHWISE.available


def depthwise_silu(x: Tensor, weight: Tensor, backend: str = 'auto') -> Tensor:
    """Depthwise convolution along the tokens, then SiLU (arXiv 2407.08083, section 3.2).

    MambaVision's mixer uses the result as the input of the scan and as the second branch.

    With zeros for x_{-1} and x_L, per channel: p_t = w_0 x_{t-1} + w_1 x_t + w_2 x_{t+1},  y_t = p_t sigmoid(p_t).

    Args:
        x: tokens [B, L, C], of any strides.
        weight: taps [C, 1, 3], the weight of a `Conv1d` with groups=C.
        backend: 'torch': a convolution and SiLU. 'shifted': multiply-adds of shifted tensors. 'triton': one kernel on a
            GPU that computes in float32, first derivatives only. 'auto': the name from `ops.backend(depthwise=...)` or
            from the environment variable MMMAMBAVISION_DEPTHWISE; without them, 'torch'.

    Returns:
        [B, L, C] in the type of x, or in autocast's type. Channels are contiguous in memory.

    Raises:
        UserError: (a ValueError) the backend is unknown or cannot run on this input, or shapes do not match.
    """
    name = DEPTHWISE.asked_for(backend)
    if name in ('auto', 'torch'):  # torch checks the shapes itself, and traced graphs use torch's operators
        return depthwise_torch(x, weight)
    if x.dim() != 3 or weight.shape != (x.shape[2], 1, 3):
        raise UserError(f'depthwise_silu needs x (B, L, C) and weight (C, 1, 3), got {tuple(x.shape)} and '
                        f'{tuple(weight.shape)}')
    if name == 'triton':
        DEPTHWISE.require(name, x, weight)
        if x.numel() == 0 or under_functional_transform() or torch.jit.is_tracing():
            name = 'shifted'  # the kernel supports no empty inputs, transforms and traced graphs no custom operators
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))  # as torch's convolution does
    return BACKENDS[name].run(x, weight)
