"""Functions that the benchmarks share: interleaved timing, counts of operations and memory, the machine's name, tables.
"""
import csv
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmmambavision.cli.work.doctor import cpu_name
from mmmambavision.terminal import show

ATTENTION = ('bmm', 'baddbmm', 'scaled_dot_product', 'attention_cpu')


def times_in_turn(calls, rounds, advance):
    """Interleave the timed calls, so that clock drift affects all of them equally.

    Times of each call in s, by key. Each round runs all calls once. The first round is a warm-up.
    """
    times = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - begin)
            advance()
    return {key: values[1:] for key, values in times.items()}


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


def describe(device):
    """The name of the GPU, or the name of the CPU with torch's number of threads."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{cpu_name()}, {torch.get_num_threads()} threads'


def report(rows, columns, as_text, markdown=False, file=None):
    """Print a table without empty columns.

    Args:
        rows: dicts with the keys of `columns`.
        columns: column titles by key.
        as_text: function from (row, key) to the text of a cell.
        markdown: see `show`.
        file: CSV file to write as well, with the keys in the first line; None for no file.
    """
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [[as_text(row, key) for key in keys] for row in rows]
    show([columns[key] for key in keys], cells, markdown)
    if file:
        with file.open('w', newline='') as stream:
            csv.writer(stream).writerows([keys, *cells])
