"""Compare the outputs and speed of an ONNX file with its PyTorch module."""
import statistics
import time

import cv2
import numpy as np
import torch

# Maximum differences of the outputs. Maps and logits: relative to the largest absolute value of a map. Boxes are in
# pixels, scores and masks from 0 to 1.
LIMITS = dict(maps=1e-4, logits=1e-4, boxes=1e-3, scores=1e-4, masks=1e-4)
# For weights in float16, with a relative rounding error of up to 1 / 2048.
HALF_LIMITS = dict(maps=.1, logits=.1, boxes=1., scores=.02, masks=.05)


def sizes_around(height, width):
    """Four sizes for the check, all different from the sample: half size, swapped sides, odd sides, larger sides."""
    return ((height // 2, width // 2), (width, height), (height // 2 + 11, width // 2 + 13), (height + 32, width + 64))


def picture(height, width):
    """A test image (1, 3, H, W), 0 to 255: discs and rectangles of random colours on a smooth background."""
    random = np.random.default_rng(height * width)
    ground = random.integers(60, 200, (4, 6, 3)).astype(np.uint8)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    for index in range(8):
        x, y = (int(random.integers(0, side)) for side in (width, height))
        size = int(min(height, width) * random.uniform(.05, .2))
        colour = tuple(map(int, random.integers(0, 255, 3)))
        if index % 2:
            cv2.circle(image, (x, y), size, colour, -1)
        else:
            cv2.rectangle(image, (x - size, y - size), (x + size, y + size), colour, -1)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def differences(outputs, expected, found, half=False):
    """The largest difference for each kind of output, by the names in LIMITS.

    Each detection is compared with the nearest detection of the same label, because ties have no defined order. If a
    detection has no match, or the numbers of detections differ, the differences are infinite. In float16 only
    detections with a score of at least 0.3 need a match.

    Args:
        outputs: names of the module's outputs; None for maps.
        expected, found: outputs of the module and of the file, as arrays.
        half: whether the file has weights in float16.
    """
    if outputs is None or 'dets' not in outputs:
        name = 'maps' if outputs is None else 'logits'
        return {name: max(_relative(a, b) for a, b in zip(expected, found, strict=True))}
    kinds = ('boxes', 'scores', 'masks')[:len(outputs)]
    expected, found = ([value[output[1] >= 0] for value in output] for output in (expected, found))
    same = half or len(expected[0]) == len(found[0])
    sure = expected[0][:, 4] >= (.3 if half else 0.)
    (dets, labels, *masks), (own_dets, own_labels, *own_masks) = [value[sure] for value in expected], found
    if not len(dets):
        return dict.fromkeys(kinds, 0. if same else float('inf'))
    if not len(own_dets):
        return dict.fromkeys(kinds, float('inf'))
    distances = np.abs(dets[:, None, :4] - own_dets[None, :, :4]).max(-1)
    distances[labels[:, None] != own_labels] = float('inf')
    nearest = distances.argmin(1)
    if not same or len(set(nearest)) < len(nearest) or np.isinf(distances.min(1)).any():
        return dict.fromkeys(kinds, float('inf'))
    if outputs[2:] == ('mask_logits',):
        masks, own_masks = ([torch.from_numpy(one).sigmoid().numpy() for one in own] for own in (masks, own_masks))
    pairs = ((dets[:, :4], own_dets[:, :4]), (dets[:, 4], own_dets[:, 4]), *zip(masks, own_masks))
    return {kind: float(np.abs(a - b[nearest]).max()) for kind, (a, b) in zip(kinds, pairs)}


def _relative(expected, found):
    """The largest difference relative to the largest expected value. Absolute if all expected values are 0."""
    return float(np.abs(expected - found).max()) / (float(np.abs(expected).max()) or 1.)


def compare(module, session, images, half=False, rounds=3):
    """Compare outputs and times of a module and a file on images.

    Args:
        module: module in eval mode.
        session: onnxruntime.InferenceSession of the file.
        images: (B, 3, H, W).
        half: see `differences`.
        rounds: number of timed runs, after one warm-up run. Both run alternately.

    Returns:
        The result of `differences`; median seconds of PyTorch; median seconds of ONNX Runtime; number of detections, or
        None for other outputs.
    """
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
    eager = [value.numpy() for value in ([eager] if torch.is_tensor(eager) else eager)]
    outputs = module.outputs
    count = int((eager[1] >= 0).sum()) if outputs and 'labels' in outputs else None
    return differences(outputs, eager, exported, half), *(statistics.median(own[1:]) for own in times), count
