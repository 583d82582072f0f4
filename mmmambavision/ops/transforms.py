"""Transformations of functions that custom operators have no rules for."""
import torch


def under_functional_transform():
    """Whether torch.func transforms this call: those see through tensor operations and not through custom operators."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
