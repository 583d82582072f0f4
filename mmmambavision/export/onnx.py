"""A module to an ONNX file that takes any size, and back into ONNX Runtime."""
import json
from pathlib import Path

import torch

from ..errors import UserError


def export(module, sample, file, scan='loop-free', opset=20, static=False, half=False, meta=None):
    """Write a function of images to an ONNX file, its weights in it, or, from 1.5 GiB on, in FILE.data beside it.

    Args:
        module: in eval mode, called with images (B, 3, H, W); returns a tensor or a tuple of them. Its attribute
            `any_batch`, if there is one, says whether B may differ from the sample's, `outputs` names what it returns.
        sample: images to trace it with; of two at least for any batch, since torch takes a 1 for what all batches have.
        file: path of the new file.
        scan: 'loop-free', or 'scan' for ONNX's Scan operator.
        opset: version of ONNX's operators.
        static: whether the file takes the sample's batch and size alone.
        half: whether large weights are stored in float16.
        meta: what the file's metadata_props shall say, values that JSON knows.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """
    need('onnx', 'onnxscript')
    import onnx
    from onnxscript.optimizer import optimize_ir

    from . import nms
    from .half import halve_weights
    from .scan import translations
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {2: dynamic, 3: dynamic, **({0: dynamic} if getattr(module, 'any_batch', True) else {})}
    with torch.no_grad():
        program = torch.onnx.export(
            module, (sample,), dynamo=True, opset_version=opset, verbose=False, optimize=False,
            input_names=['images'], output_names=getattr(module, 'outputs', None),
            dynamic_shapes=None if static else (sizes,),
            custom_translation_table={**translations(scan), torch.ops.mmmambavision.fixed_nms.default: nms.translate})
    optimize_ir(program.model, num_iterations=1)  # torch's two take twice as long and find no more
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose source each node comes from, a tenth of a small file
    if half:
        halve_weights(program.model.graph)
    program.model.metadata_props.update({key: json.dumps(value) for key, value in (meta or {}).items()})
    try:
        program.save(str(file))
    except OSError as error:  # as of a full disk, where a part of the file would be in the next one's way
        Path(file).unlink(missing_ok=True)
        raise UserError(f'{file} cannot be written: {error.strerror or error}') from None
    onnx.checker.check_model(str(file), full_check=True)


def read(file):
    """An ONNX Runtime session of a file, on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """
    need('onnxruntime')
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(file), options)
    except Exception as error:  # onnxruntime has an exception for each of its states
        raise UserError(f'{file} cannot be read by ONNX Runtime: {str(error).splitlines()[0]}') from None


def metadata(session):
    """The values of a file's metadata_props, which `export` wrote; those that others added are left out."""
    found = {}
    for key, value in session.get_modelmeta().custom_metadata_map.items():
        try:
            found[key] = json.loads(value)
        except ValueError:
            continue
    return found


def need(*packages):
    """See that packages are installed.

    Raises:
        UserError: one is missing.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise UserError(f'this needs {package}: pip install onnx onnxscript onnxruntime') from None
