"""RoIAlign (arXiv 1703.06870) and RoIPool (arXiv 1504.08083), forward and backward.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
Shapes: input (N, C, H, W); rois (R, 5): image index, x1, y1, x2, y2; output, argmax and grad_output (R, C, height,
width).
"""
import torch
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

from ...ops.compiled import in_parallel
from .boxes import widened

OFF_THE_MAP = -2


def roi_align_forward(input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    """The mean of each bin's samples. With pool_mode 0 the maximum, and its map position in argmax_y and argmax_x."""
    input, rois = widened(input, rois)
    if pool_mode == 1:
        def mean(some):
            return torch.ops.torchvision.roi_align(input, some, spatial_scale, aligned_height, aligned_width,
                                                   sampling_ratio, aligned)
        # Tracing and torch's dispatch modes, for example fake tensors, work only in the calling thread.
        alone = (input.device.type != 'cpu' or not len(rois) or torch.compiler.is_compiling()
                 or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0)
        output.copy_(mean(rois) if alone else _by_threads(mean, rois))
        return
    start, end = (rois[:, 1:] * spatial_scale - (.5 if aligned else 0)).split(2, 1)
    size = end - start if aligned else (end - start).clamp(min=1)
    bins = size / size.new_tensor([aligned_width, aligned_height])
    counts = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
    maps = channels_last(input)
    row, column = (torch.arange(number, device=rois.device) for number in (aligned_height, aligned_width))
    # A region without samples has the maximum 0, like its mean.
    output.zero_()
    argmax_y.fill_(OFF_THE_MAP)
    argmax_x.fill_(OFF_THE_MAP)
    for r, (image, (across, down)) in enumerate(zip(rois[:, 0].long().tolist(), counts.long().tolist())):
        if across < 1 or down < 1:
            continue
        x, y = (start[r, axis] + number[:, None] * bins[r, axis]
                + (torch.arange(samples, device=rois.device) + .5) * bins[r, axis] / samples
                for axis, number, samples in ((0, column, across), (1, row, down)))
        output[r], best = maxima(sum(
            maps[image, rows[..., None, None], columns] * (row_weight[..., None, None] * column_weight)[..., None]
            for rows, row_weight in neighbours(y, input.shape[2])
            for columns, column_weight in neighbours(x, input.shape[3])))
        argmax_y[r], argmax_x[r] = y[row[:, None], best // across], x[column, best % across]


def _by_threads(pool, rois):
    """`pool(rois)` in parallel, because torchvision's operator uses only one thread on a CPU."""
    results = {}

    def run(first, last):
        with torch.no_grad():  # grad mode is per thread
            results[first] = pool(rois[first:last])

    in_parallel(run, len(rois))
    return torch.cat([results[first] for first in sorted(results)])


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, aligned_height, aligned_width, spatial_scale,
                       sampling_ratio, pool_mode, aligned):
    grad_output, rois = widened(grad_output, rois)
    if pool_mode == 1:
        grad_input.copy_(torch.ops.torchvision._roi_align_backward(
            grad_output, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio,
            aligned))
        return
    gradient = torch.zeros_like(grad_input, dtype=grad_output.dtype)
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(grad_input.shape[1], device=rois.device).view(-1, 1, 1)
    for rows, row_weight in neighbours(*widened(argmax_y), grad_input.shape[2]):
        for columns, column_weight in neighbours(*widened(argmax_x), grad_input.shape[3]):
            gradient.index_put_((image, channel, rows, columns), grad_output * row_weight * column_weight,
                                accumulate=True)
    grad_input.copy_(gradient)


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """The maximum of each bin's pixels, and its position y W + x in argmax (int32). An empty bin has 0 and -1.

    mmcv divides the exact region into bins. torchvision's RoIPool first rounds the region to whole pixels, so it cannot
    be used here.
    """
    input, rois = widened(input, rois)
    height, width = input.shape[2:]
    start, end = rois[:, 1:3] * spatial_scale, (rois[:, 3:] + 1) * spatial_scale
    end = torch.where((end > start).all(1, keepdim=True), end, start)
    first_x, last_x = bin_pixels(start[:, 0], end[:, 0], pooled_width, width)
    first_y, last_y = bin_pixels(start[:, 1], end[:, 1], pooled_height, height)
    sizes = torch.stack([(last_x - first_x).amax(1), (last_y - first_y).amax(1)], 1)
    maps = channels_last(input)
    row, column = (torch.arange(number, device=rois.device) for number in (pooled_height, pooled_width))
    output.zero_()
    argmax.fill_(-1)
    for r, (image, (across, down)) in enumerate(zip(rois[:, 0].long().tolist(), sizes.tolist())):
        if across < 1 or down < 1:
            continue
        x = first_x[r, :, None] + torch.arange(across, device=rois.device)
        y = first_y[r, :, None] + torch.arange(down, device=rois.device)
        inside = (y < last_y[r, :, None])[..., None, None] & (x < last_x[r, :, None])
        x, y = x.clamp(max=width - 1), y.clamp(max=height - 1)
        values, best = maxima(maps[image, y[..., None, None], x].masked_fill(~inside[..., None], -torch.inf))
        filled = inside.any(3).any(1)
        output[r] = torch.where(filled, values, 0)
        argmax[r] = torch.where(filled, y[row[:, None], best // across] * width + x[column, best % across], -1)


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    grad_output, rois = widened(grad_output, rois)
    grad_input.copy_(torch.ops.torchvision._roi_pool_backward(
        grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape))


def channels_last(maps):
    """(N, C, H, W) -> (N, H, W, C), so that the channels of a pixel are contiguous in memory."""
    return maps.permute(0, 2, 3, 1).contiguous()


def maxima(values):
    """(height, down, width, across, C) -> the maximum of down x across values and its index: (C, height, width)."""
    return (result.permute(2, 0, 1) for result in values.transpose(1, 2).flatten(2, 3).max(2))


def neighbours(places, size):
    """The two neighbouring pixels of each place with their interpolation weights.

    Places up to one pixel outside the map use the border. Farther places have the weight 0.
    """
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.long()
    return (low, (low + 1 - places) * inside), ((low + 1).clamp(max=size - 1), (places - low) * inside)


def bin_pixels(start, end, bins, limit):
    """The pixel range [first, last) of each bin between start (R,) and end (R,): two tensors (R, bins)."""
    edges = torch.arange(bins + 1, device=start.device) * ((end - start) / bins)[:, None] + start[:, None]
    first, last = edges[:, :-1].floor().clamp(0, limit).long(), edges[:, 1:].ceil().clamp(0, limit).long()
    return first, torch.where((end > start)[:, None], last, first)
