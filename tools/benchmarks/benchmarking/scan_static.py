"""The statistics of `scan_static.py`."""
import json
import re
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
import triton as compiler
from rich.console import Console
from rich.progress import Progress
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmmambavision.ops import depthwise
from mmmambavision.ops.depthwise import triton_kernels as depthwise_kernels
from mmmambavision.ops.scan import triton, triton_backward, triton_kernels
from mmmambavision.terminal import show

POINTERS = {torch.float32: '*fp32', torch.bfloat16: '*bf16'}
TOOLS = Path(compiler.__file__).parent / 'backends' / 'nvidia' / 'bin'
OPTIONS = {'num_warps', 'num_stages'}
ENDS, STARTS = 'selective_scan_segment_ends_kernel', 'selective_scan_segment_starts_kernel'
FORWARD, BACKWARD = 'selective_scan_fwd_kernel', 'selective_scan_bwd_kernel'
KERNELS = {triton_kernels: (ENDS, STARTS, FORWARD), triton_backward: (BACKWARD,),
           depthwise_kernels: ('depthwise_silu_fwd_kernel', 'depthwise_silu_bwd_kernel')}
STATES = 8
# Multiprocessors, instructions that a multiprocessor issues per cycle (in warps), GHz and GB/s of the SXM boards
# (NVIDIA's data sheets and architecture papers).
GPUS = {'A100': (108, 4, 1.41, 1555), 'H100': (132, 4, 1.83, 3350)}


class Figures(NamedTuple):
    """Statistics of a compiled kernel: registers, spilled bytes and instructions of the longest loop per thread, and
    shared memory per program in bytes."""
    registers: int
    spilled: int
    shared: int
    loop: int


class Compiling:
    """Replacement for a kernel. A launch only compiles the kernel for its arguments, as a launch on a GPU does."""

    def __init__(self, kernel, capability, found):
        self.kernel, self.capability, self.found = kernel, capability, found

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **named):
        options = {name: named.pop(name) for name in OPTIONS & set(named)}
        names = self.kernel.arg_names
        values = {**dict(zip(names, args)), **named}
        assert set(values) == set(names), set(values) ^ set(names)
        fixed = {p.name for p in self.kernel.params if p.is_constexpr}
        fixed |= {name for name, value in values.items() if value is None or (isinstance(value, int) and value == 1)}
        signature = {name: 'constexpr' if name in fixed else POINTERS[values[name].dtype]
                     if torch.is_tensor(values[name]) else 'i32' for name in names}
        # torch aligns memory to 16 bytes. A launch on a GPU also tells the compiler which integers are multiples of 16.
        aligned = {(index,): [['tt.divisibility', 16]] for index, name in enumerate(names)
                   if name not in fixed and (torch.is_tensor(values[name])
                                             or (isinstance(values[name], int) and values[name] % 16 == 0
                                                 and name not in self.kernel.do_not_specialize))}
        source = ASTSource(self.kernel, signature=signature, constexprs={name: values[name] for name in fixed},
                           attrs=aligned)
        compiled = compiler.compile(source, target=GPUTarget('cuda', self.capability, 32), options=options)
        self.found.append((self.kernel.fn.__name__, figures(compiled.asm['cubin'], compiled.metadata.shared)))


def figures(cubin, shared):
    """Statistics of a compiled kernel. NVIDIA's tools in Triton's package read them from the machine code."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        usage, code = (subprocess.run([TOOLS / 'cuobjdump', option, file.name], check=True, text=True,
                                      capture_output=True).stdout for option in ('-res-usage', '-sass'))
    registers, stack = (int(re.search(rf'{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK'))
    return Figures(registers, stack, shared, longest_loop(code))


def longest_loop(code):
    """The number of instructions of the longest loop in a machine code listing."""
    addresses = [int(address, 16) for address in re.findall(r'/\*([0-9a-f]{4,})\*/\s+[@A-Z]', code)]
    jumps = re.findall(r'/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?BRA(?:\.\w+)* (?:`?\(?\.?\w*,? ?)*0x([0-9a-f]+)', code)
    # The last instruction of a program jumps to itself.
    loops = [(int(to, 16), int(at, 16)) for at, to in jumps if int(to, 16) < int(at, 16)]
    return max((sum(first <= address <= last for address in addresses) for first, last in loops), default=0)


def compile_all(capability, dtype, z, batch=1, channels=160, length=300):
    """Compile the kernels of a forward and a backward pass without a GPU. Returns (kernel, Figures) pairs.

    Args:
        capability: compute capability of the GPU times ten.
        dtype: type of u, delta, B, C and z.
        z: whether there is a gate.
        batch, channels, length: sizes of the inputs. Short sequences have no segments.
    """
    found = []
    u, delta, gate = torch.zeros(3, batch, length, channels, dtype=dtype).transpose(2, 3)
    B, C = torch.zeros(2, batch, 1, length, STATES, dtype=dtype).transpose(3, 4)
    inputs = (u, delta, torch.zeros(channels, STATES), B, C, torch.zeros(channels), gate if z else None,
              torch.zeros(channels), True)
    x, weight = torch.zeros(batch, length, channels, dtype=dtype), torch.zeros(channels, 1, 3)
    with ExitStack() as replaced:
        for module, names in KERNELS.items():
            for name in names:
                replaced.enter_context(patch.object(
                    module, name, Compiling(getattr(module, name), capability, found)))
        _, _, kept = triton.forward(*inputs, keep=True)
        triton.backward(u, None, kept, *inputs)
        depthwise.triton.backward(depthwise.triton.forward(x, weight), x, weight)
    return found


# For each kernel: the number of (B, D, L) tensors that it reads or writes.
UNITS = {ENDS: 2, STARTS: 0, FORWARD: 3, BACKWARD: 5}


def per_unit(name, loop):
    """Instructions per thread for each channel, step and state. For STARTS, for each segment and state."""
    if name == STARTS:
        return loop / triton.SEGMENTS_PER_LOAD
    return loop / (triton.chunk_size(STATES) * triton.WIDTH // triton.WARP_LANES * STATES)


def seconds(name, loop, gpu, dtype, shape):
    """Lower limit of the time of a scan kernel that loops over time."""
    batch, channels, length = shape
    processors, issued, ghz, bandwidth = GPUS[gpu]
    size = batch * channels * length
    moved = UNITS[name] * size * torch.finfo(getattr(torch, dtype)).bits / 8
    rate = processors * issued * triton.WARP_LANES * ghz * 1e9  # instructions of threads per second
    return max(size * STATES * per_unit(name, loop) / rate, moved / (bandwidth * 1e9))


def show_all(targets, dtypes, shape, markdown, file=None):
    """Compile for every target and type, and print the table. If `file` is given, write the statistics to it as JSON.
    """
    records = []
    with Progress(console=Console(stderr=True)) as progress:
        pairs = [(capability, dtype) for capability in targets for dtype in dtypes]
        for capability, dtype in progress.track(pairs, description='compiling'):
            for name, found in compile_all(capability, getattr(torch, dtype), z=dtype != 'float32'):
                record = dict(target=f'sm_{capability}', dtype=dtype, kernel=name, registers=found.registers,
                              spilled=found.spilled, shared=found.shared)
                if name in UNITS:
                    record['instructions'] = round(per_unit(name, found.loop), 1)
                if UNITS.get(name):
                    record |= {gpu: round(1e6 * seconds(name, found.loop, gpu, dtype, shape), 1) for gpu in GPUS}
                records.append(record)
    print(f"triton {compiler.__version__}; N={STATES}; with a gate but in float32; estimated times of B, D, L = "
          f"{', '.join(map(str, shape))}")
    columns = dict(target='target', dtype='type', kernel='kernel', registers='registers', spilled='spilled bytes',
                   shared='shared bytes', instructions='instructions', **{gpu: f'{gpu} µs' for gpu in GPUS})
    show([*columns.values()], [[str(record.get(key, '')) for key in columns] for record in records], markdown)
    if file:
        file.write_text(json.dumps(records))
