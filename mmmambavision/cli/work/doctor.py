"""Collect versions, hardware and operators for a bug report."""
import platform
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from ...ops import attn, depthwise, scan

PACKAGES = ('mmmambavision', 'torch', 'torchvision', 'triton', 'numba', 'numpy', 'timm', 'mmengine', 'mmcv',
            'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain', 'onedl-mmengine', 'onedl-mmcv',
            'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mmpretrain', 'onnx', 'onnxscript', 'onnxruntime',
            'openvino', 'mamba-ssm')


def examine() -> None:
    """Print versions, hardware, and the implementations of the operators."""
    found = facts()
    width = max(map(len, found))
    for name, value in found.items():
        print(f'{name:{width}}  {value}')


def facts() -> dict[str, str]:
    """Names and values for the table."""
    found = dict(system=platform.platform(), python=platform.python_version())
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found['CPU'] = f'{cpu_name()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}'
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found[f'GPU {index}'] = (f'{properties.name}, sm_{properties.major}{properties.minor}, '
                                     f'{properties.total_memory / 2 ** 30:.0f} GiB, CUDA {torch.version.cuda}')
    else:
        found['GPU'] = 'none' if torch.version.cuda is None else f'none that CUDA {torch.version.cuda} can use'
    for name, operator in (('scan', scan), ('attention', attn), ('convolution', depthwise)):
        for backend, absent in operator.available_backends().items():
            found[f'{name}: {backend}'] = absent or 'available'
    found["mmcv's operators"] = operators()
    return found


def cpu_name() -> str:
    """The model name of the CPU, or Python's description of it."""
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.partition(':')[2].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def operators() -> str:
    """The source of the operators of `mmcv.ops`."""
    mmcv = find_spec('mmcv')
    if mmcv is None:
        return 'mmcv is not installed'
    extension = PathFinder.find_spec('mmcv._ext', mmcv.submodule_search_locations)
    if extension is None:
        return 'not compiled; `import mmmambavision.openmmlab` supplies them'
    file = extension.origin or ''
    return f'{"supplied by a file" if file.endswith(".py") else "compiled"}: {file}'
