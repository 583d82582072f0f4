"""Compiles the Triton kernels of a forward and a backward pass for GPUs that need not be there; prints their names."""
import sys

import torch
import triton as compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmmambavision.ops import depthwise
from mmmambavision.ops.depthwise import triton_kernels as depthwise_kernels
from mmmambavision.ops.selective_scan import triton, triton_kernels

POINTERS = {torch.float32: '*fp32', torch.bfloat16: '*bf16'}
OPTIONS = {'num_warps', 'num_stages'}


class Compiled:
    """Stands in for a kernel: a launch compiles it for the arguments given, as a launch on a GPU would."""

    def __init__(self, kernel, capability):
        self.kernel, self.capability = kernel, capability

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **named):
        options = {name: named.pop(name) for name in OPTIONS & set(named)}
        names = self.kernel.arg_names
        values = {**dict(zip(names, args)), **named}
        assert set(values) == set(names), set(values) ^ set(names)
        fixed = {p.name for p in self.kernel.params if p.is_constexpr}
        fixed |= {name for name, value in values.items() if isinstance(value, int) and value == 1}
        signature = {name: 'constexpr' if name in fixed else POINTERS[values[name].dtype]
                     if torch.is_tensor(values[name]) else 'i32' for name in names}
        source = ASTSource(self.kernel, signature=signature, constexprs={name: values[name] for name in fixed})
        assert 'cubin' in compiler.compile(source, target=GPUTarget('cuda', self.capability, 32), options=options).asm
        print(self.kernel.fn.__name__)


def main():
    kernels = {name: getattr(triton_kernels, name)
               for name in ('segment_ends', 'segment_starts', 'forward', 'backward')}
    depthwise_pair = {name: getattr(depthwise_kernels, name)
                      for name in ('depthwise_silu_forward', 'depthwise_silu_backward')}
    for capability, dtype, z in ((80, torch.float32, False), (90, torch.bfloat16, True)):
        for name, kernel in kernels.items():
            setattr(triton_kernels, name, Compiled(kernel, capability))
        u, delta, gate = torch.zeros(3, 1, 300, 160, dtype=dtype).transpose(2, 3)
        B, C = torch.zeros(2, 1, 1, 300, 8, dtype=dtype).transpose(3, 4)
        inputs = u, delta, torch.zeros(160, 8), B, C, torch.zeros(160), gate if z else None, torch.zeros(160), True
        y, last, kept = triton.forward(*inputs, keep=True)
        triton.backward(y, None, kept, *inputs)
        for name, kernel in depthwise_pair.items():
            setattr(depthwise_kernels, name, Compiled(kernel, capability))
        x, weight = torch.zeros(2, 300, 320, dtype=dtype), torch.zeros(320, 1, 3)
        depthwise.triton.backward(depthwise.triton.forward(x, weight), x, weight)


if __name__ == '__main__':
    sys.exit(main())
