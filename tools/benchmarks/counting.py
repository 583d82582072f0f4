"""Count multiply-adds of a call from tensor shapes, and bytes stored for the backward pass."""
import torch
from torch.utils.flop_counter import FlopCounterMode

ATTENTION = ('bmm', 'baddbmm', 'scaled_dot_product', 'attention_cpu')


def count(function, *arguments):
    """Multiply-adds of a call in G: (linear and convolution layers, attention products, scans), and its result."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = function(*arguments)
    kinds = [0., 0., 0.]
    for operator, flops in counter.get_flop_counts()['Global'].items():
        name = str(operator)
        kind = 2 if 'selective_scan' in name else 1 if any(word in name for word in ATTENTION) else 0
        kinds[kind] += flops / 2e9
    return kinds, result


def kept_bytes(call, given):
    """Bytes of tensors that a call stores for the backward pass, without the given tensors."""
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = call()
    del outputs
    return sum(kept.values())
