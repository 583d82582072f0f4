"""The measurements of `scan.py`."""
import csv
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress

from mmmambavision.ops import available_backends, selective_scan
from mmmambavision.terminal import show

from .measure import describe, kept_bytes

STATES = 8
LOOP = 'step loop'  # for comparison: a plain loop in torch, with the decays and inputs of all steps computed before it
COLUMNS = ('shape', 'batch', 'type', 'backend', 'forward ms', 'of copy', 'both ms', 'of copy both', 'kept MiB')


def measure_all(args, shapes):
    """Measure with the arguments of scan.py, and print the table.

    Args:
        args: the arguments.
        shapes: (sequences per image, channels, length) by name.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    for name, reason in available_backends().items():
        if reason:
            print(f'{name} is skipped: {reason}')
    backends = args.backends or [name for name, reason in available_backends().items() if reason is None
                                 and not (name == 'cpu' and device == 'cuda')]
    bandwidth = copy_bandwidth(device, args.seconds)
    print(f'{describe(device)}; torch {torch.__version__}; {args.layout}; a copy moves {bandwidth / 1e9:.1f} GB/s')
    combinations = [(shape, batch, dtype, backend) for shape in shapes for batch in args.batch
                    for dtype in args.dtype for backend in backends]
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        for shape, batch, dtype, backend in progress.track(combinations, description='measuring'):
            rows.append([shape, str(batch), dtype, backend, *measure(
                shapes[shape], batch, getattr(torch, dtype), args.layout, backend, device, bandwidth, args.seconds)])
    show(COLUMNS, rows, args.markdown)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            csv.writer(file).writerows([COLUMNS, *rows])


def make_inputs(batch, channels, length, dtype, device, layout='channels-last'):
    """Inputs in the form of the mixer: channels-last, separate z, steps before softplus."""
    def tokens(width):
        values = torch.randn(batch, length, width, device=device, dtype=dtype).transpose(1, 2)
        return values if layout == 'channels-last' else values.contiguous()
    return dict(u=tokens(channels), delta=tokens(channels), A=-torch.rand(channels, STATES, device=device) * STATES,
                B=tokens(STATES), C=tokens(STATES), D=torch.ones(channels, device=device),
                delta_bias=torch.zeros(channels, device=device), delta_softplus=True)


def step_loop(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """The scan as a loop over steps, with exp(step A) and step B u of all steps in memory."""
    step = F.softplus(delta.float() + delta_bias[:, None])
    decays = torch.exp(torch.einsum('bdl,dn->bdln', step, A))
    inputs = torch.einsum('bdl,bnl,bdl->bdln', step, B.float(), u.float())
    state, outputs = torch.zeros_like(decays[:, :, 0]), []
    for decay, added, weights in zip(decays.unbind(2), inputs.unbind(2), C.float().unbind(2)):
        state = decay * state + added
        outputs.append((state * weights[:, None]).sum(-1))
    return torch.stack(outputs, 2) + D[:, None] * u


def scan(inputs, backend):
    return step_loop(**inputs) if backend == LOOP else selective_scan(**inputs, backend=backend)


def median_seconds(function, device, seconds):
    """Median time of a call, after one warm-up call. Runs for the given seconds, and at least three calls."""
    times, start = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < seconds:
        if device == 'cuda':
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def copy_bandwidth(device, seconds):
    """Bandwidth of a plain copy in bytes per second, counting reads and writes."""
    source = torch.empty(64 * 2 ** 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / median_seconds(lambda: target.copy_(source), device, seconds)


def measure(shape, batch, dtype, layout, backend, device, bandwidth, seconds):
    images, channels, length = shape
    inputs = make_inputs(batch * images, channels, length, dtype, device, layout)
    tensors = [v for v in inputs.values() if torch.is_tensor(v)]
    size = sum(v.numel() * v.element_size() for v in tensors) + inputs['u'].numel() * inputs['u'].element_size()
    with torch.no_grad():
        forward = median_seconds(lambda: scan(inputs, backend), device, seconds)
    for tensor in tensors:
        tensor.requires_grad_()

    def both():
        y = scan(inputs, backend)
        torch.autograd.grad(y, tensors, torch.ones_like(y))

    both_seconds = median_seconds(both, device, seconds)
    kept = kept_bytes(lambda: scan(inputs, backend), tensors)
    return [f'{forward * 1e3:.2f}', f'{size / forward / bandwidth:.1%}', f'{both_seconds * 1e3:.2f}',
            f'{3 * size / both_seconds / bandwidth:.1%}', f'{kept / 2 ** 20:.1f}']
