"""Run a file in OpenVINO's format with the methods of an ONNX Runtime session."""
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike
from types import SimpleNamespace
from typing import Any

import numpy as np

METADATA = 'mmmambavision'  # the contract's place in the file's rt_info


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore the stack for signal handlers afterwards.

    OpenVINO 2026.4.1 sets its own stack for each compiled model. After some models are freed, it is an address without
    memory, and the next signal, for example Ctrl-C, ends the process with a segmentation fault.
    """
    sigaltstack = getattr(ctypes.CDLL(None), 'sigaltstack', None) if os.name == 'posix' else None
    stack = ctypes.create_string_buffer(64)  # a stack_t, which has at most 24 bytes
    if sigaltstack:
        sigaltstack(None, stack)
    try:
        yield
    finally:
        if sigaltstack:
            sigaltstack(stack, None)


class OpenVINOSession:
    """A file in OpenVINO's format on the CPU, with the methods of `onnxruntime.InferenceSession` that readers use.

    The model is compiled for each size of images, because OpenVINO 2026.4.1 computes wrong values if a model has layers
    in INT8 and its size is not fixed. The last four sizes are kept. `tools/predict_onnx.py` has a copy of this class,
    because it runs without this package.

    Args:
        file: path of FILE.xml, with FILE.bin beside it, or of FILE.onnx.
        threads: number of threads.
    """

    def __init__(self, file: str | PathLike[str], threads: int) -> None:
        import openvino  # optional package
        self.core = openvino.Core()
        self.model = self.core.read_model(str(file))
        # Without the hint, layers in float32 run in bfloat16 on CPUs that have it.
        self.options = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': threads}
        self.compile = lru_cache(4)(self.compile_for)

    def compile_for(self, shape: tuple[int, ...]) -> Any:
        model = self.model.clone()
        model.reshape({'images': list(shape)})
        with kept_signal_stack():
            return self.core.compile_model(model, 'CPU', self.options)

    def run(self, _: None, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        return list(self.compile(feeds['images'].shape)(feeds, share_outputs=False).values())

    def get_inputs(self) -> list[SimpleNamespace]:
        return [self._describe(port) for port in self.model.inputs]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [self._describe(port) for port in self.model.outputs]

    def _describe(self, port: Any) -> SimpleNamespace:
        return SimpleNamespace(name=port.get_any_name(), shape=[
            side.get_length() if side.is_static else None for side in port.get_partial_shape()])

    def get_modelmeta(self) -> SimpleNamespace:
        texts = self.model.get_rt_info(METADATA).value if self.model.has_rt_info(METADATA) else {}
        return SimpleNamespace(custom_metadata_map=texts)
