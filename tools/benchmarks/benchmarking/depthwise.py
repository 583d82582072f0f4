"""The measurements of `depthwise.py`."""
import torch

from mmmambavision.ops import depthwise_silu
from mmmambavision.ops.depthwise import available_backends
from mmmambavision.terminal import show

from .measure import describe
from .scan import median_seconds

COLUMNS = ('shape', 'batch', 'type', 'backend', 'forward ms', 'forward and backward ms')


def measure_all(args, shapes):
    """Measure with the arguments of depthwise.py, and print the table.

    Args:
        args: the arguments.
        shapes: (sequences per image, channels, length) by name.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    absent = {name: reason for name, reason in available_backends().items() if reason}
    for name, reason in absent.items():
        print(f'{name} is skipped: {reason}')
    print(f'{describe(device)}; torch {torch.__version__}')
    backends = args.backends or [name for name in available_backends() if name not in absent]
    show(COLUMNS, [(name, str(batch), dtype, backend, *measure(shape, batch, getattr(torch, dtype), backend, device,
                                                               args.seconds))
                   for name, shape in shapes.items() for batch in args.batch for dtype in args.dtype
                   for backend in backends], args.markdown)


def measure(shape, batch, dtype, backend, device, seconds):
    """Milliseconds of the forward pass, and of forward and backward pass, for both halves of a mixer together."""
    images, channels, length = shape
    x = torch.randn(batch * images, length, 2 * channels, device=device, dtype=dtype)
    weight, cotangent = torch.randn(2 * channels, 1, 3, device=device, dtype=dtype), torch.randn_like(x)
    with torch.no_grad():
        forward = median_seconds(lambda: depthwise_silu(x, weight, backend), device, seconds)
    given = x.requires_grad_(), weight.requires_grad_()
    both = median_seconds(
        lambda: torch.autograd.grad(depthwise_silu(*given, backend), given, cotangent), device, seconds)
    return f'{forward * 1e3:.3f}', f'{both * 1e3:.3f}'
