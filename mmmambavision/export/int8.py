"""Quantise an exported file to INT8 with nncf."""
import logging
import tempfile
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .contract import Contract
from .onnx import MATRICES, need
from .openvino_session import METADATA

FEWEST_CHANNELS = 16  # of the input and the output of a quantised layer

def need_int8(out: Path) -> None:
    """Check that the packages for a quantised file are installed.

    Args:
        out: the new file.

    Raises:
        UserError: a package is missing.
    """
    need('onnx', 'onnxruntime', *(['openvino'] if out.suffix == '.xml' else []), 'nncf')


def quantise(file: str | PathLike[str], out: str | PathLike[str], inputs: Collection[np.ndarray[Any, Any]],
             contract: Contract | None = None) -> None:
    """Quantise the layers with weights of a float32 ONNX file: their weights per channel, their inputs per tensor.

    Everything else stays in float32: norms, pointwise operators, and

    - products of two activations (attention and the scan), because both ranges depend on the image;
    - depthwise convolutions. With one range for all of their channels, errors are three times as large;
    - layers with few input or output channels, such as the first one, and the last ones of boxes and masks. They need
      the precision and take little time.

    Args:
        file: an ONNX file of `export`.
        out: the new file. FILE.onnx has QuantizeLinear and DequantizeLinear nodes. FILE.xml is the same model in
            OpenVINO's format, with its weights in FILE.bin.
        inputs: arrays (B, 3, H, W) like those that the file will get. They give the ranges of INT8.
        contract: the `Contract` for the new file, or None.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """
    file, out = Path(file), Path(out)
    need_int8(out)
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)  # nncf imports it, and it warns without CUDA
    import nncf
    import onnx
    nncf.set_log_level(logging.ERROR)
    model = onnx.load(file, load_external_data=False)
    weights = {value.name: value.dims for value in model.graph.initializer}
    kept = [node.name for node in model.graph.node if not is_quantised(node, weights)]
    quantised = nncf.quantize(
        model, nncf.Dataset(inputs, lambda images: dict(images=images)), subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED, ignored_scope=nncf.IgnoredScope(names=kept),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # Weights of 7 bits. With 8 bits, CPUs without VNNI overflow: they add two products in 16 bits.
            overflow_fix=nncf.OverflowFix.ENABLE,
            backend_params=dict(external_data_dir=str(file.resolve().parent))))
    onnx.helper.set_model_props(quantised, contract.properties if contract else {})
    try:
        if out.suffix == '.onnx':
            onnx.save(quantised, out)
        else:
            save_for_openvino(quantised, out)
    except (OSError, RuntimeError) as error:
        raise UserError(f'{out} cannot be written: {error}') from None


def is_quantised(node: Any, weights: dict[str, Any]) -> bool:
    """Whether `quantise` quantises an ONNX node. `weights` are the shapes of all weights by name."""
    shapes = [weights[name] for name in node.input[:2] if name in weights]
    depthwise = any(attribute.name == 'group' and attribute.i > 1 for attribute in node.attribute)
    return node.op_type in MATRICES and bool(shapes) and not depthwise and min(shapes[0][:2]) >= FEWEST_CHANNELS


def save_for_openvino(model: Any, out: Path) -> None:
    """Save an ONNX model in OpenVINO's format. Its metadata_props become the file's rt_info."""
    import onnx
    import openvino
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        onnx.save(model, file := Path(folder, 'model.onnx'))
        converted = openvino.Core().read_model(file)
        for entry in model.metadata_props:
            converted.set_rt_info(entry.value, [METADATA, entry.key])
        openvino.save_model(converted, out, compress_to_fp16=False)
