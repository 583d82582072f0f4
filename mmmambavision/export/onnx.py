"""Export a module to an ONNX file for any image size, and open exported files."""
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .contract import Contract
from .openvino_session import OpenVINOSession

MATRICES = {'Conv', 'ConvTranspose', 'MatMul', 'Gemm'}


def export(module: torch.nn.Module, sample: torch.Tensor, file: str | PathLike[str], scan: str = 'loop-free',
           opset: int = 20, static: bool = False, half: bool = False, contract: Contract | None = None) -> None:
    """Export a module to an ONNX file. Weights of 1.5 GiB or more go to FILE.data.

    Args:
        module: module in eval mode that takes images (B, 3, H, W) and returns a tensor or a tuple of tensors. Optional
            attributes: `any_batch`, whether B is dynamic; `outputs`, names of the outputs.
        sample: images for tracing. For a dynamic batch, at least two: torch treats a batch of 1 as a constant.
        file: path of the new file.
        scan: 'loop-free', or 'scan' for ONNX's Scan operator.
        opset: version of ONNX's operators.
        static: whether the batch and image size of the sample are fixed.
        half: whether to store large weights in float16.
        contract: the `Contract` for the file's metadata_props, or None.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """
    need('onnx', 'onnxscript')
    import onnx
    from onnxscript.optimizer import optimize_ir

    from . import boxes
    from .scan import translations
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {2: dynamic, 3: dynamic, **({0: dynamic} if getattr(module, 'any_batch', True) else {})}
    with torch.no_grad():
        program: Any = torch.onnx.export(
            module, (sample,), dynamo=True, opset_version=opset, verbose=False, optimize=False,
            input_names=['images'], output_names=getattr(module, 'outputs', None),
            dynamic_shapes=None if static else (sizes,),
            custom_translation_table={**translations(scan),
                                      torch.ops.mmmambavision.fixed_nms.default: boxes.translate_nms})
    optimize_ir(program.model, num_iterations=1)  # torch's two iterations take twice as long without benefit
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source locations, 10% of a small file
    if half:
        _halve_weights(program.model.graph)
    if contract:
        program.model.metadata_props.update(contract.properties)
    try:
        program.save(str(file))
    except OSError as error:  # for example a full disk: remove the partial file
        Path(file).unlink(missing_ok=True)
        raise UserError(f'{file} cannot be written: {error.strerror or error}') from None
    onnx.checker.check_model(str(file), full_check=True)


def read(file: str | PathLike[str]) -> Any:
    """Open a file on the CPU: FILE.onnx in an ONNX Runtime session, FILE.xml in an `OpenVINOSession`.

    Raises:
        UserError: the runtime is not installed, or cannot read the file.
    """
    if Path(file).suffix == '.xml':
        need('openvino')
        try:
            return OpenVINOSession(file, torch.get_num_threads())
        except RuntimeError as error:
            raise UserError(f'{file} cannot be read by OpenVINO: {str(error).splitlines()[-1]}') from None
    need('onnxruntime')
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(file), options)
    except Exception as error:  # onnxruntime has an exception class for each error code
        raise UserError(f'{file} cannot be read by ONNX Runtime: {str(error).splitlines()[0]}') from None


def open_model(file: str | PathLike[str], task: str) -> tuple[Any, Contract]:
    """Open an exported model. Returns its session (see `read`) and its contract.

    Args:
        file: path of the file.
        task: `task` of the contract.

    Raises:
        UserError: the file is not a whole model for this task.
    """
    session = read(file)
    contract = Contract.of_session(session)
    if contract is None or contract.task != task:
        holds = 'another model' if contract is None else contract.part if contract.part != 'model' else contract.task
        raise UserError(f'{file} holds {holds}, but the config needs {task}. Use a whole model that was exported with '
                        'this config')
    return session, contract


def need(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        UserError: a package is missing.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            extra = dict(nncf='nncf', openvino='openvino').get(package, 'onnx onnxscript onnxruntime')
            raise UserError(f'this needs {package}: pip install {extra}') from None


def _halve_weights(graph: Any) -> None:
    """Store matrices and kernels as float16, and cast them back to float32 in the graph.

    Runtimes do the cast once, when they load the file. Biases, norms, decays of scans and constants stay in float32,
    because they are small. Weights outside the range of float16 also stay in float32.

    Args:
        graph: graph of onnx_ir, changed in place.
    """
    import onnx_ir as ir
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
