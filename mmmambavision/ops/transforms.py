"""Who transforms or captures a call: custom operators have no rules for all of them."""
import torch
from torch.autograd import forward_ad


def under_functional_transform():
    """Whether torch.func or forward-mode differentiation transforms this call: those see through tensor operations and
    not through custom operators, which would lose tangents without a word."""
    return not torch.compiler.is_compiling() and (torch._C._are_functorch_transforms_active()
                                                  or forward_ad._current_level >= 0)


def is_exporting():
    """Whether torch.export captures this call. `torch.compiler.is_exporting()` says so to torch.compile, too."""
    return torch.compiler._is_exporting_flag


def is_observed(arguments):
    """Whether somebody follows torch's operators: compilation, export, FLOP counters, fake and wrapped tensors."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or any(
        isinstance(a, torch.Tensor) and type(a) not in (torch.Tensor, torch.nn.Parameter) for a in arguments)
