"""Weights of an ONNX graph in float16, computed with in float32."""
import numpy as np
import onnx_ir as ir

MATRICES = {'Conv', 'ConvTranspose', 'MatMul', 'Gemm'}


def halve_weights(graph):
    """Store matrices and kernels as float16 and cast them back in the graph, which runtimes do once, when they load it.

    Everything else stays as it is: biases, norms, the scans' decays and constants are a small part of a file. So do
    weights that float16 does not hold.

    Args:
        graph: onnx_ir's, changed in place.
    """
    for name, weight in list(graph.initializers.items()):
        uses = list(weight.uses())
        if weight.dtype != ir.DataType.FLOAT or not uses or any(use.node.op_type not in MATRICES for use in uses):
            continue
        values = weight.const_value.numpy()
        if values.ndim < 2 or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        stored = ir.Value(name=f'{name}_half', const_value=ir.tensor(values.astype(np.float16), name=f'{name}_half'),
                          type=ir.TensorType(ir.DataType.FLOAT16), shape=weight.shape)
        cast = ir.node('Cast', [stored], attributes=dict(to=ir.DataType.FLOAT), num_outputs=1)
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = f'{name}_single', weight.type, weight.shape
        graph.insert_before(graph[0], cast)
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)
