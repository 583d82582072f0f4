"""The measurements of `attention.py`."""
import statistics
from functools import partial

import torch
from rich.console import Console
from rich.progress import Progress

from mmmambavision.errors import UserError
from mmmambavision.ops import attention
from mmmambavision.ops.attn import available_backends, cpu

from .measure import describe, report, times_in_turn

COLUMNS = dict(type='type', heads='heads', keys='keys', size='head size', torch_forward='torch forward ms',
               cpu_forward='ours', forward='ratio', torch_both='torch both ms', cpu_both='ours', both='ratio')


def compare(args):
    """Measure with the arguments of attention.py, and print the table.

    Raises:
        UserError: our kernel cannot run on this CPU.
    """
    if reason := available_backends()['cpu'] or cpu.refuses(torch.empty(0)):
        raise UserError(f'our kernel cannot run here: {reason}')
    types = [getattr(torch, name) for name in args.dtype]
    for dtype in [dtype for dtype in types if cpu.refuses(torch.empty(0, dtype=dtype))]:
        print(f'{dtype} is skipped: {cpu.refuses(torch.empty(0, dtype=dtype))}')
        types.remove(dtype)
    print(f"{describe('cpu')}; torch {torch.__version__}; batch {args.batch}; {args.rounds} rounds")
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task('measuring', total=len(types) * len(args.keys) * 4 * (args.rounds + 1))
        for dtype in types:
            rows += [measure(args, dtype, keys, partial(progress.advance, task)) for keys in sorted(args.keys)]
    report(rows, COLUMNS, as_text, args.markdown, args.csv)
    for name in dict.fromkeys(row['type'] for row in rows):
        own = [row for row in rows if row['type'] == name]
        found = [f'{kind} {least}' if (least := border(own, kind)) else f'{kind} at none of these'
                 for kind in ('forward', 'both')]
        print(f"{name}: number of keys from which our kernel is faster: {', '.join(found)}")


def forward(backend, tensors):
    with torch.no_grad():
        attention(*tensors, backend)


def both(backend, tensors, cotangent):
    torch.autograd.grad(attention(*tensors, backend), tensors, cotangent)


def measure(args, dtype, keys, step):
    shape = args.batch, keys, 3, args.heads, args.head_size
    tensors = torch.randn(*shape, dtype=dtype).permute(2, 0, 3, 1, 4).unbind(0)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    cotangent = torch.randn_like(tensors[0])
    calls = {}
    for backend in ('torch', 'cpu'):
        calls[backend, 'forward'] = partial(forward, backend, tensors)
        calls[backend, 'both'] = partial(both, backend, tensors, cotangent)
    times = times_in_turn(calls, args.rounds, step)
    row = dict(type=str(dtype).removeprefix('torch.'), heads=args.heads, keys=keys, size=args.head_size)
    for kind in ('forward', 'both'):
        for backend in ('torch', 'cpu'):
            row[f'{backend}_{kind}'] = 1e3 * statistics.median(times[backend, kind])
        row[kind] = statistics.median(a / b for a, b in zip(times['torch', kind], times['cpu', kind]))
    return row


def border(rows, kind):
    """The smallest number of keys from which the kernel is faster in all rows, or None."""
    slower = [row['keys'] for row in rows if row[kind] < 1]
    return min((row['keys'] for row in rows if not slower or row['keys'] > max(slower)), default=None)


def as_text(row, key):
    return f'{row[key]:.2f}' if isinstance(row[key], float) else str(row[key])
