"""An ONNX file beside the module that it was made of."""
import statistics
import time

import numpy as np
import torch

LIMIT = 1e-4


def sizes_around(height, width):
    """Four sizes to check at, none the sample's: half of it, its sides changed, odd ones, and a larger one."""
    return ((height // 2, width // 2), (width, height), (height // 2 + 11, width // 2 + 13), (height + 32, width + 64))


def compare(module, session, shape, scale=1., rounds=3):
    """Errors and times of one shape.

    Args:
        module: in eval mode.
        session: the file's onnxruntime.InferenceSession.
        shape: (B, 3, H, W) of random images.
        scale: values are standard normal numbers times it.
        rounds: both run so often, in turn, after once that does not count.

    Returns:
        The largest difference of an output, to be at most LIMIT; seconds of eager and of ONNX Runtime, medians.
    """
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    calls = [lambda: module(images), lambda: session.run(None, {'images': images.numpy()})]
    times = [[], []]
    with torch.inference_mode():
        for _ in range(rounds + 1):
            results = []
            for call, own in zip(calls, times):
                begin = time.perf_counter()
                results.append(call())
                own.append(time.perf_counter() - begin)
    eager, exported = results
    eager = [eager] if torch.is_tensor(eager) else eager
    error = max(np.abs(a.numpy() - b).max() for a, b in zip(eager, exported, strict=True))
    return error, *(statistics.median(own[1:]) for own in times)
