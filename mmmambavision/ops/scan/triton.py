"""The scan on a GPU. The triton that comes with torch compiles the kernels at first use.

Long sequences are cut into segments, so that even one image fills the GPU. The first kernel computes the last state of
each segment from a zero state. The second kernel computes the true initial state of each segment. The third kernel
computes the outputs. If the channels of the batch alone fill the GPU, only the third kernel runs. The backward pass
works in the same way in reverse.
"""
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from .operators import like, refusal

OLDEST = (3, 3)  # the first version of triton with tuples in kernels
WIDTH = 64       # channels of a program, two per lane
WARP_LANES = 32
WARPS_PER_MULTIPROCESSOR = 16  # enough to hide the latency of loads
MIN_CHUNKS_PER_SEGMENT = 5     # about 15 steps
MIN_SEGMENTS = 4       # with fewer segments, two more kernels may cost too much: ImageNet's 49 steps are not cut
MAX_SEGMENTS = 128     # because the second kernel is serial over segments
SEGMENTS_PER_LOAD = 64  # segments that the second kernel loads together


def unavailable():
    """The reason why this implementation cannot run here, or None."""
    if not importlib.util.find_spec('triton'):
        return 'triton is not installed; it comes with torch for Linux: pip install triton'
    if not (interpreted() or torch.cuda.is_available()):
        return f'it needs a GPU, and torch sees no GPU: {why_no_gpu()}'
    from triton import __version__ as version
    if tuple(int(part) for part in version.split('.')[:2]) < OLDEST:
        return f'triton {version} is too old: install torch 2.7 or newer, which includes triton 3.3 or newer'
    return None if interpreted() or os.name == 'nt' else why_no_launcher()


def why_no_gpu():
    """torch's reason why it sees no GPU, for example a driver that is too old."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip()
    return 'no device is visible'


def why_no_launcher():
    """The missing tool for building Triton's C code that launches kernels, or None.

    Triton's own error would be only a CalledProcessError. On Windows, Triton includes the tools.
    """
    if not (os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')):
        return 'triton needs a C compiler to launch kernels: apt install gcc, or set CC to a compiler'
    scheme = sysconfig.get_default_scheme().replace('posix_local', 'posix_prefix')  # as Triton does, for Debian
    folders = [sysconfig.get_paths(scheme)['include'], *os.environ.get('CPATH', '').split(os.pathsep),
               *os.environ.get('C_INCLUDE_PATH', '').split(os.pathsep)]
    if not any(folder and Path(folder, 'Python.h').is_file() for folder in folders):
        return (f'triton needs Python.h to launch kernels, and {folders[0]} does not contain it: apt install '
                'python3-dev, or the package of your Python version')
    return None


def interpreted():
    """Whether kernels run in Triton's interpreter on the CPU, for tests and debugging."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def refuses(u):
    """The reason why this implementation cannot process an input, or None."""
    return refusal(u, u.device.type == 'cuda' or (interpreted() and u.device.type == 'cpu'), 'a GPU')


class _Call:
    """The shared arguments of the kernels of one call, and its division into segments."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        batch, channels, length = u.shape
        groups = B.shape[1]
        _, blocks, chunks, states, width = kept_shape(u, A, B)
        wanted = WARPS_PER_MULTIPROCESSOR * multiprocessors(u.device) // (batch * blocks)
        segments = min(wanted, chunks // MIN_CHUNKS_PER_SEGMENT, MAX_SEGMENTS)
        per_segment = -(-chunks // (segments if segments >= MIN_SEGMENTS else 1))
        self.segments = -(-chunks // per_segment)
        self.grid = batch * blocks, self.segments
        self.states_shape = batch, blocks, self.segments, states, width
        A, D, bias = (None if t is None else t.float().contiguous() for t in (A, D, delta_bias))
        self.tensors = u, delta, A, B, C, D, z, bias
        self.z_strides = (0, 0, 0) if z is None else z.stride()
        self.strides = *u.stride(), *delta.stride(), *B.stride(), *C.stride(), *self.z_strides
        self.channels, self.channel_blocks = channels, (blocks, blocks // groups, channels // groups)
        self.times = channels, length, chunks, self.segments, per_segment
        self.block = dict(N=states, WIDTH=width, num_warps=1, num_stages=1)
        self.walk = dict(SOFTPLUS=delta_softplus, CHUNK=chunk_size(states), **self.block)

    def new(self, *shape):
        return self.tensors[0].new_empty(shape, dtype=torch.float32)

    def starts(self, u, weights, last=None, reverse=False):
        """States before the segments (B, blocks, segments, N, WIDTH). With `reverse`, gradients of the states after
        the segments."""
        from . import triton_kernels
        _, delta, A, *_, z, bias = self.tensors
        batch, blocks, segments, states, width = self.states_shape
        _, length, _, _, per_segment = self.times
        ends, starts = self.new(*self.states_shape), self.new(*self.states_shape)
        sums = self.new(batch, blocks, segments, width)
        if segments > 1:
            triton_kernels.selective_scan_segment_ends_kernel[self.grid](
                u, delta, A, weights, z, bias, ends, sums, *u.stride(), *delta.stride(), *weights.stride(),
                *self.z_strides, *self.channel_blocks, length, segments, per_segment, REVERSE=reverse, **self.walk)
        triton_kernels.selective_scan_segment_starts_kernel[batch * blocks, states, width // WARP_LANES](
            ends, sums, A, last, starts, *self.channel_blocks, self.channels, segments, REVERSE=reverse,
            LANES=WARP_LANES, TOGETHER=SEGMENTS_PER_LOAD, **self.block)
        return starts


def multiprocessors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == 'cuda' else 1


def chunk_size(states):
    """Steps of a chunk. In the backward pass, all states of a chunk must fit into registers.

    With 32 instead of 24, registers would spill at compute capability 8.0 (tools/benchmarks/scan_static.py).
    """
    return max(1, 24 // states)


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass: (B, blocks, chunks, N, WIDTH)."""
    groups = B.shape[1]
    return (u.shape[0], groups * -(-(u.shape[1] // groups) // WIDTH), -(-u.shape[2] // chunk_size(A.shape[1])),
            A.shape[1], WIDTH)


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """See `make_operator`."""
    from . import triton_kernels
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y, last_state = like(u), call.new(*u.shape[:2], A.shape[1])
    kept = call.new(*kept_shape(u, A, B)) if keep else None
    with torch.cuda.device_of(u):
        starts = call.starts(u, B) if call.segments > 1 else None
        triton_kernels.selective_scan_fwd_kernel[call.grid](
            *call.tensors, starts, y, kept, last_state, *call.strides, *call.channel_blocks, *call.times, **call.walk)
    return y, last_state, kept if keep else call.new(0)


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """See `make_operator`."""
    from . import triton_backward
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, blocks, segments, states, width = call.states_shape
    groups, length = B.shape[1], u.shape[2]
    du, ddelta, dz = like(u), like(delta), None if z is None else like(z)
    sums = call.new(batch, blocks, segments, states + 2, width)  # dA, dD, ddelta_bias
    dBC = call.new(batch, blocks, length, 2, states)
    with torch.cuda.device_of(u):
        starts = None
        if segments > 1 or dlast is not None:
            starts = call.starts(dy, C, None if dlast is None else dlast.float().contiguous(), reverse=True)
        triton_backward.selective_scan_bwd_kernel[call.grid](
            *call.tensors, kept, starts, dy, du, ddelta, dz, sums, dBC, *call.strides, *dy.stride(),
            *call.channel_blocks, *call.times, LANES=WARP_LANES, **call.walk)
    # (B, blocks, segments, N + 2, WIDTH) to (channels, N + 2), without padding channels.
    sums = sums.sum((0, 2)).transpose(1, 2).reshape(groups, -1, states + 2)
    sums = sums[:, :u.shape[1] // groups].reshape(-1, states + 2)
    dB, dC = dBC.view(batch, groups, -1, length, 2, states).sum(2).permute(3, 0, 1, 4, 2)
    # Copies, because the outputs of a custom operator must not share memory.
    dA, dD, dbias, dB, dC = (t.clone(memory_format=torch.contiguous_format) for t in (
        sums[:, :states], sums[:, states], sums[:, states + 1], dB, dC))
    return du, ddelta, dA, dB, dC, dD, dz, dbias
