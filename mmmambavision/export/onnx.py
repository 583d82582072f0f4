"""A module to an ONNX file that takes any size, and back into ONNX Runtime."""
import json

import torch

from ..errors import UserError


def export(module, sample, file, scan='loop-free', opset=20, static=False, meta=None):
    """Write a function of one image batch to an ONNX file, its weights in it.

    Args:
        module: in eval mode, called with images (B, 3, H, W); returns a tensor or a tuple of them.
        sample: images to trace it with, two at least unless `static`: torch takes a 1 for what all batches have.
        file: path of the new file.
        scan: 'loop-free', or 'scan' for ONNX's Scan operator.
        opset: version of ONNX's operators.
        static: whether the file takes the sample's batch and size alone.
        meta: what the file's metadata_props shall say, values that JSON knows.

    Raises:
        UserError: a package is missing.
    """
    _need('onnx', 'onnxscript')
    from .scan import translations
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.onnx.export(
            module, (sample,), dynamo=True, opset_version=opset, verbose=False, input_names=['images'],
            dynamic_shapes=None if static else ({0: dynamic, 2: dynamic, 3: dynamic},),
            custom_translation_table=translations(scan))
    program.model.metadata_props.update({key: json.dumps(value) for key, value in (meta or {}).items()})
    program.save(str(file))
    import onnx
    onnx.checker.check_model(str(file), full_check=True)


def read(file):
    """An ONNX Runtime session of a file.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    _need('onnxruntime')
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options)


def _need(*packages):
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise UserError(f'this needs {package}: pip install onnx onnxscript onnxruntime') from None
