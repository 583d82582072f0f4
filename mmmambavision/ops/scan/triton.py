"""The scan on a GPU: kernels compiled by the triton that comes with torch, at first use.

Long sequences are cut into segments, so that even one image fills the GPU: what each segment makes of a zero state,
then the state that each really starts with, then its outputs. Where the channels of the batch fill the GPU by
themselves the last of the three does it alone. The backward pass is the same from the other end.
"""
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from .operators import like, refusal

OLDEST = (3, 3)  # of triton's versions, the first that has tuples in kernels
WIDTH = 64     # channels of a program, two per lane
WARPS = 16     # per multiprocessor, wanted to hide the latency of loads
SHORTEST = 5   # chunks of a segment, about 15 steps
FEWEST = 4     # segments for which two more kernels may be worth their time: 49 steps of ImageNet are not cut
MOST = 128     # segments, since passing on their states takes time for each
TOGETHER = 64  # segments loaded at a time where their states are passed on, for so many channels per program:
LANES = 32


def unavailable():
    """Why this implementation cannot run here, or None."""
    if not importlib.util.find_spec('triton'):
        return 'triton is not installed; it comes with torch for Linux: pip install triton'
    if not (interpreted() or torch.cuda.is_available()):
        return f'it needs a GPU, and torch sees none: {why_no_gpu()}'
    from triton import __version__ as version
    if tuple(int(part) for part in version.split('.')[:2]) < OLDEST:
        return f'triton {version} is too old for its kernels: install torch 2.7 or newer, which brings 3.3 or newer'
    return None if interpreted() or os.name == 'nt' else why_no_launcher()


def why_no_gpu():
    """What torch says of a machine on which it sees no GPU, such as that the driver is too old."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip()
    return 'no device is visible'


def why_no_launcher():
    """What is missing for Triton to build the C code that launches kernels, or None; its own error would be a
    CalledProcessError. On Windows Triton brings both."""
    if not (os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')):
        return 'triton needs a C compiler for what launches its kernels: apt install gcc, or name one in CC'
    scheme = sysconfig.get_default_scheme().replace('posix_local', 'posix_prefix')  # as Triton does, for Debian
    folders = [sysconfig.get_paths(scheme)['include'], *os.environ.get('CPATH', '').split(os.pathsep),
               *os.environ.get('C_INCLUDE_PATH', '').split(os.pathsep)]
    if not any(folder and Path(folder, 'Python.h').is_file() for folder in folders):
        return (f'triton needs Python.h for what launches its kernels, and {folders[0]} has none: apt install '
                'python3-dev, or the package of your Python version')
    return None


def interpreted():
    """Whether kernels run in Triton's interpreter, on the CPU: a debugging aid."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def refuses(u):
    """Why this implementation cannot take an input, or None."""
    return refusal(u, u.device.type == 'cuda' or interpreted() and u.device.type == 'cpu', 'a GPU')


class _Launch:
    """Sizes of one call, shared by its kernels, and what they are launched with."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        from . import triton_kernels
        self.kernels = triton_kernels
        batch, channels, length = u.shape
        groups, states = B.shape[1:3]
        _, blocks, chunks, _, width = kept_shape(u, A, B)
        self.programs = batch * blocks
        wanted = WARPS * multiprocessors(u.device) // self.programs
        segments = min(wanted, chunks // SHORTEST, MOST)
        self.per_segment = -(-chunks // (segments if segments >= FEWEST else 1))
        self.segments = -(-chunks // self.per_segment)
        self.grid = (self.programs, self.segments)
        self.u, self.delta, self.z = u, delta, u if z is None else z
        self.A, self.D, self.bias = (u if t is None else t.float().contiguous() for t in (A, D, delta_bias))
        self.block = dict(N=states, WIDTH=width, num_warps=1, num_stages=1)
        self.sizes = dict(blocks=blocks, group_blocks=blocks // groups, group_channels=channels // groups,
                          segments=self.segments)
        self.walk = dict(self.sizes, length=length, segment_chunks=self.per_segment, SOFTPLUS=delta_softplus,
                         HAS_Z=z is not None, HAS_BIAS=delta_bias is not None, CHUNK=chunk_size(states), **self.block)
        self.whole = dict(self.walk, channels=channels, chunks=chunks, HAS_D=D is not None, **strides(
            u=u, delta=delta, B=B, C=C, z=self.z))
        self.states_shape = (batch, blocks, self.segments, states, width)

    def new(self, *shape):
        return self.u.new_empty(shape, dtype=torch.float32)

    def starts(self, u, weights, last=None, reverse=False):
        """States before the segments (B, blocks, segments, N, WIDTH), or with `reverse` gradients of those
        after them."""
        ends, starts, sums = self.new(*self.states_shape), self.new(*self.states_shape), self.new(
            *self.states_shape[:3], self.states_shape[4])
        if self.segments > 1:
            self.kernels.segment_ends[self.grid](
                u, self.delta, self.A, weights, self.z, self.bias, ends, sums, REVERSE=reverse,
                **self.walk, **strides(u=u, delta=self.delta, B=weights, z=self.z))
        _, _, _, states, width = self.states_shape
        self.kernels.segment_starts[self.programs, states, width // LANES](
            ends, sums, self.A, ends if last is None else last, starts, channels=self.u.shape[1],
            REVERSE=reverse, HAS_LAST=last is not None, LANES=LANES, TOGETHER=TOGETHER, **self.sizes, **self.block)
        return starts


def strides(**tensors):
    """Strides as the kernels name them."""
    return {f'{name}_{axis}': stride for name, tensor in tensors.items()
            for axis, stride in zip('bdt' if tensor.dim() == 3 else 'bgnt', tensor.stride(), strict=True)}


def multiprocessors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == 'cuda' else 1


def chunk_size(states):
    """Steps of a chunk: as many as its states fit into registers in the backward pass. With 32 for 24 the registers of
    compute capability 8.0 would spill (tools/benchmarks/scan_static.py)."""
    return max(1, 24 // states)


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass: (B, blocks, chunks, N, WIDTH)."""
    groups = B.shape[1]
    return (u.shape[0], groups * -(-(u.shape[1] // groups) // WIDTH), -(-u.shape[2] // chunk_size(A.shape[1])),
            A.shape[1], WIDTH)


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """As `make_operator` wants it."""
    launch = _Launch(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y, last_state = like(u), launch.new(*u.shape[:2], A.shape[1])
    kept = launch.new(*kept_shape(u, A, B) if keep else (0,))
    split = launch.segments > 1
    with torch.cuda.device_of(u):
        starts = launch.starts(u, B) if split else last_state
        launch.kernels.forward[launch.grid](u, delta, launch.A, B, C, launch.D, launch.z, launch.bias, starts, y, kept,
                                            last_state, SPLIT=split, KEEP=keep, **launch.whole)
    return y, last_state, kept


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """As `make_operator` wants it."""
    launch = _Launch(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, blocks, segments, states, width = launch.states_shape
    groups, length = B.shape[1], u.shape[2]
    du, ddelta, dz = like(u), like(delta), u if z is None else like(z)
    sums = launch.new(batch, blocks, segments, states + 2, width)  # dA, dD, ddelta_bias
    dBC = launch.new(batch, blocks, length, 2, states)
    split = segments > 1 or dlast is not None
    with torch.cuda.device_of(u):
        starts = launch.starts(dy, C, None if dlast is None else dlast.float().contiguous(), True) if split else sums
        launch.kernels.backward[launch.grid](
            u, delta, launch.A, B, C, launch.D, launch.z, launch.bias, kept, starts, dy, du, ddelta, dz, sums, dBC,
            SPLIT=split, LANES=LANES, **strides(dy=dy), **launch.whole)
    # (B, blocks, segments, N + 2, WIDTH) to (channels, N + 2), without the places of no channel.
    sums = sums.sum((0, 2)).transpose(1, 2).reshape(groups, -1, states + 2)
    sums = sums[:, :u.shape[1] // groups].reshape(-1, states + 2)
    dB, dC = dBC.view(batch, groups, -1, length, 2, states).sum(2).permute(3, 0, 1, 4, 2)
    # Copies, because results of a custom operator may not share memory.
    dA, dD, dbias, dB, dC = (t.clone(memory_format=torch.contiguous_format) for t in (
        sums[:, :states], sums[:, states], sums[:, states + 1], dB, dC))
    return du, ddelta, dA, dB, dC, dD, dz, dbias
