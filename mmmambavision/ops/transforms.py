"""Detect torch's transforms, exports and tracers, because custom operators do not support all of them."""
import torch
from torch.autograd import forward_ad


def under_functional_transform():
    """Whether torch.func or forward-mode differentiation transforms this call.

    They support plain tensor operations. A custom operator would lose tangents without an error.
    """
    return not torch.compiler.is_compiling() and (torch._C._are_functorch_transforms_active()
                                                  or forward_ad._current_level >= 0)


def is_exporting():
    """Whether torch.export captures this call. `torch.compiler.is_exporting()` is also true under torch.compile."""
    return torch.compiler._is_exporting_flag


def is_observed(arguments):
    """Whether compilation, export, a FLOP counter, or a fake or wrapped tensor intercepts torch's operators."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or any(
        isinstance(a, torch.Tensor) and type(a) not in (torch.Tensor, torch.nn.Parameter) for a in arguments)
