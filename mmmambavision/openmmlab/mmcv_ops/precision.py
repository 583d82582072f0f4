import torch


def widened(*tensors):
    """The tensors in one floating type that has at least float32's precision: coordinates do not fit in 16 bits."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
