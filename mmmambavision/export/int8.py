"""Quantise an exported file to INT8 with nncf."""
import logging
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .contract import Contract
from .onnx import MATRICES, need
from .openvino_session import METADATA


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
    """Quantise a float32 ONNX file: weights per channel, and inputs of layers with weights per tensor.

    Everything else stays in float32: products of two activations (attention, the scan), norms and pointwise operators.
    OpenVINO and ONNX Runtime lose most detections with quantised products, and gain no time from the others.

    Args:
        file: an ONNX file of `export`.
        out: the new file. FILE.onnx has QuantizeLinear and DequantizeLinear nodes. FILE.xml is OpenVINO's format, with
            its weights in FILE.bin.
        inputs: arrays (B, 3, H, W) like those that the file will get. Their ranges become the ranges of INT8.
        contract: the `Contract` for the new file, or None.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """
    out = Path(out)
    need_int8(out)
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)  # nncf imports it, and it warns without CUDA
    import nncf
    import onnx
    nncf.set_log_level(logging.ERROR)
    model = onnx.load(file, load_external_data=False)
    weights = {value.name for value in model.graph.initializer}
    kept = [node.name for node in model.graph.node
            if node.op_type not in MATRICES or not weights.intersection(node.input)]
    quantised = nncf.quantize(
        model, nncf.Dataset(inputs, lambda images: dict(images=images)), subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED, ignored_scope=nncf.IgnoredScope(names=kept),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            backend_params=dict(external_data_dir=str(Path(file).resolve().parent))))
    if contract:
        onnx.helper.set_model_props(quantised, contract.properties)
    try:
        if out.suffix == '.xml':
            import openvino
            converted = openvino.convert_model(quantised)
            for key, value in (contract.properties if contract else {}).items():
                converted.set_rt_info(value, [METADATA, key])
            openvino.save_model(converted, out, compress_to_fp16=False)
        else:
            onnx.save(quantised, out)
    except (OSError, RuntimeError) as error:
        raise UserError(f'{out} cannot be written: {error}') from None
