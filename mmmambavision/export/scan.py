"""The selective scan in ONNX, in two forms: loop-free for every runtime, and as ONNX's Scan operator.

Both take the arguments of the custom operators in `ops/scan/operators.py`, and both are exact for every length.
"""
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch.onnx._internal.exporter import _core

from ..errors import UserError
from ..ops.scan.interface import BACKENDS

CHUNK = 16  # unrolled steps per chunk, and chunks per group on each level
LEVELS = 4  # the maximum length is CHUNK ** LEVELS = 65,536 steps; a Reshape fails for longer sequences


def translations(form):
    """The table for `torch.onnx.export(custom_translation_table=...)`. `form` is 'loop-free' or 'scan'."""
    translate = {'loop-free': loop_free, 'scan': as_scan}[form]
    operators = (f'selective_scan_{name}' for name in BACKENDS if name != 'reference')
    return {getattr(torch.ops.mmmambavision, name).default: translate for name in operators}


def loop_free(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """Chunked scan with unrolled chunks of 16 steps. All chunks run in parallel.

    The first pass starts each chunk from a zero state and finds its contribution. A scan over chunks, with the same
    method, gives the initial state of each chunk. The second pass starts from these states and computes the outputs.
    """
    channels, states = A.shape
    step, x, B, C, A = _token_major(u, delta, A, B, C, delta_bias, delta_softplus)
    steps = _cut(step, 1, channels)
    inputs = [op.Mul(w, b) for w, b in zip(_cut(op.Mul(step, x), 1, channels), _cut(B, states, 1))]
    decays = [op.Exp(op.Mul(s, A)) for s in steps]
    added = _run(decays, inputs)
    # The product of 16 decays as one exponential of the sum, with less rounding.
    through = op.Exp(op.Mul(_sum(steps), A))
    state, last = _states_before(through, added, LEVELS - 1, states, channels)
    outputs = []
    for decay, value, weights in zip(decays, inputs, _cut(C, 1, states)):
        state = op.Add(op.Mul(decay, state), value)
        outputs.append(op.MatMul(weights, state))  # (B, chunks, 1, D)
    y = op.Reshape(op.Concat(*outputs, axis=2), _integers(0, -1, channels))
    y = op.Slice(y, _integers(0), op.Shape(x, start=1, end=2), _integers(1))
    return _finish(y, x, u, D, z), op.Transpose(last, perm=[0, 2, 1]), op.Constant(value_floats=[0.])


def _states_before(decay, added, levels, states, channels):
    """States (B, M, N, D) before each of M chunks, and the state (B, N, D) after the last chunk.

    A chunk multiplies the state by `decay` and adds `added`, both (B, M, N, D).
    """
    count = op.Shape(decay, start=1, end=2)
    groups = 1 if levels == 1 else -1  # the last level has at most CHUNK chunks; its Reshape fails for more
    decays = _cut(decay, states, channels, groups, filling=1.)
    added = _cut(added, states, channels, groups)
    if levels == 1:
        state = op.Mul(added[0], op.Constant(value_float=0.))
    else:
        through = decays[0]
        for one in decays[1:]:
            through = op.Mul(through, one)
        state, last = _states_before(through, _run(decays, added), levels - 1, states, channels)
    before = []
    for one, value in zip(decays, added):
        before.append(op.Unsqueeze(state, _integers(2)))
        state = op.Add(op.Mul(one, state), value)
    if levels == 1:
        last = op.Squeeze(state, _integers(1))
    before = op.Reshape(op.Concat(*before, axis=2), _integers(0, -1, states, channels))
    return op.Slice(before, _integers(0), count, _integers(1)), last


def _run(decays, inputs):
    """The state after all steps, from a zero state."""
    state = inputs[0]
    for decay, value in zip(decays[1:], inputs[1:]):
        state = op.Add(op.Mul(decay, state), value)
    return state


def as_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """One ONNX Scan over the steps: a small file, but a loop in the runtime."""
    step, x, B, C, A = _token_major(u, delta, A, B, C, delta_bias, delta_softplus)
    steps_first = dict(perm=[1, 0, 2])
    sequences = [op.Unsqueeze(op.Transpose(value, **steps_first), _integers(axis)) for value, axis in (
        (step, 2), (op.Mul(step, x), 2), (B, 3), (C, 2))]  # (L, B, 1, D) twice, (L, B, N, 1), (L, B, 1, N)
    zero = op.Mul(op.Slice(x, _integers(0), _integers(1), _integers(1)), op.Constant(value_float=0.))
    zero = op.Add(zero, op.Mul(op.Unsqueeze(A, _integers(0)), op.Constant(value_float=0.)))  # (B, N, D)
    node = ir.Node('', 'Scan', [zero, *sequences], num_outputs=2, version=18, attributes=[
        ir.AttrGraph('body', _scan_body(A)), ir.AttrInt64('num_scan_inputs', len(sequences))])
    _core.current_tracer.nodes.append(node)  # onnxscript's functions do not support graph attributes
    last, outputs = node.outputs
    y = op.Transpose(op.Squeeze(outputs, _integers(2)), **steps_first)
    return _finish(y, x, u, D, z), op.Transpose(last, perm=[0, 2, 1]), op.Constant(value_floats=[0.])


def _scan_body(A):
    """The graph of one step. Inputs: state, step, step * input, B, C. Outputs: new state, output."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    state, step, value, B, C = (ir.Value(name=f'scan_{name}', type=kind) for name in ('h', 's', 'w', 'b', 'c'))
    nodes = []

    def call(operator, *inputs):
        node = ir.Node('', operator, inputs, num_outputs=1)
        node.outputs[0].name, node.outputs[0].type = f'scan_{operator.lower()}_{len(nodes)}', kind
        nodes.append(node)
        return node.outputs[0]

    new = call('Add', call('Mul', call('Exp', call('Mul', step, A)), state), call('Mul', value, B))
    output = call('MatMul', C, new)
    return ir.Graph([state, step, value, B, C], [new, output], nodes=nodes, name='selective_scan_step')


def _token_major(u, delta, A, B, C, delta_bias, delta_softplus):
    """Steps and u as (B, L, D), B and C as (B, L, N), A as (N, D)."""
    if B.shape[1] != 1:
        raise UserError(f'a scan with {B.shape[1]} groups of B and C cannot be exported. Only one group is supported')
    step, x = (op.Transpose(value, perm=[0, 2, 1]) for value in (delta, u))
    if delta_bias is not None:
        step = op.Add(step, delta_bias)
    if delta_softplus:
        step = op.Softplus(step)
    B, C = (op.Transpose(op.Squeeze(value, _integers(1)), perm=[0, 2, 1]) for value in (B, C))
    return step, x, B, C, op.Transpose(A, perm=[1, 0])


def _finish(y, x, u, D, z):
    """Add D u to outputs (B, L, D), apply the gate, and return (B, D, L)."""
    if D is not None:
        y = op.Add(y, op.Mul(D, x))
    y = op.Transpose(y, perm=[0, 2, 1])
    return y if z is None else op.Mul(y, op.Mul(z, op.Sigmoid(z)))


def _cut(value, rows, columns, groups=-1, filling=0.):
    """Split (B, M, rows * columns) into CHUNK tensors (B, M / CHUNK, rows, columns). Pads M to a multiple of CHUNK."""
    missing = op.Mod(op.Sub(_integers(0), op.Shape(value, start=1, end=2)), _integers(CHUNK))
    value = op.Pad(value, op.Concat(_integers(0), missing, axis=0), op.Constant(value_float=filling), _integers(1))
    value = op.Reshape(value, _integers(0, groups, CHUNK, rows, columns))
    return [op.Squeeze(part, _integers(2)) for part in op.Split(value, axis=2, num_outputs=CHUNK)]


def _sum(values):
    total = values[0]
    for value in values[1:]:
        total = op.Add(total, value)
    return total


def _integers(*values):
    return op.Constant(value_ints=list(values))
