"""Operators that pool bilinear samples at computed places: RoIAlign of rotated boxes (arXiv 1703.06870), deformable RoI
pooling (arXiv 1703.06211), and feature alignment of R3Det (arXiv 1908.05612), forward and backward.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
Shapes: input (N, C, H, W); output and grad_output (R, C, height, width).
"""
import torch
import torch.nn.functional as F

from .boxes import widened
from .regions import channels_last, neighbours

SAMPLES_AT_ONCE = 2 ** 18  # a sample needs about 200 bytes beside the output


def pooled(maps, image, y, x, counts):
    """Sums of bilinear samples.

    Args:
        maps: (N, H, W, C).
        image, y, x: (S,), the map and the place of each sample. Samples of the same result are adjacent.
        counts: (R,), the number of samples of each result.

    Returns:
        (R, C), with gradients for maps, y and x.
    """
    height, width, channels = maps.shape[1:]
    first = image * height
    taps = [((first + rows) * width + columns, row_weight * column_weight)
            for rows, row_weight in neighbours(y, height) for columns, column_weight in neighbours(x, width)]
    pixels, weights = (torch.stack(parts, 1).flatten() for parts in zip(*taps))
    return F.embedding_bag(pixels, maps.reshape(-1, channels), 4 * (counts.cumsum(0) - counts), mode='sum',
                           per_sample_weights=weights.to(maps.dtype))


class Grid:
    """The sample grids of regions that are cut into bins.

    Attributes:
        start: (R, 2), x and y of the first bin's corner.
        bins: (R, 2), width and height of a bin.
        samples: (R, 2), the number of samples of a bin across and down.
        size: (height, width), bins down and across.
    """

    def __init__(self, start, extent, size, sampling_ratio):
        self.start, self.size = start, size
        self.bins = extent / extent.new_tensor([size[1], size[0]])
        fixed = torch.full_like(self.bins, sampling_ratio)
        self.samples = (fixed if sampling_ratio > 0 else self.bins.detach().ceil().clamp(min=0)).long()
        self.counts = self.samples.prod(1).repeat_interleave(size[0] * size[1])

    def blocks(self):
        """Ranges of bins that have at most SAMPLES_AT_ONCE samples together, or one bin."""
        first, ends = 0, self.counts.cumsum(0).cpu()
        while first < len(ends):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(torch.searchsorted(ends, before + SAMPLES_AT_ONCE, right=True)))
            yield first, last
            first = last

    def places(self, first, last):
        """The region (S,) of each sample of the bins `first` to `last`, its bin (S,), and its place x, y (S, 2)."""
        counts = self.counts[first:last]
        bin_index = torch.arange(first, last, device=counts.device).repeat_interleave(counts)
        begin = (counts.cumsum(0) - counts).repeat_interleave(counts)
        number = torch.arange(len(bin_index), device=counts.device) - begin
        region = bin_index // (self.size[0] * self.size[1])
        column, row = bin_index % self.size[1], bin_index // self.size[1] % self.size[0]
        samples = self.samples[region]
        step = torch.stack([number % samples[:, 0], number // samples[:, 0]], 1)
        inside = torch.stack([column, row], 1) + (step + .5) / samples
        return region, bin_index, self.start[region] + inside * self.bins[region]


def mean_of_grid(maps, image, grid, move):
    """The mean of each bin's samples: (R height width, C). `move(region, bin, places)` gives the final places."""
    results = []
    for first, last in grid.blocks():
        region, bin_index, places = grid.places(first, last)
        x, y = move(region, bin_index, places).unbind(1)
        counts = grid.counts[first:last]
        results.append(pooled(maps, image[region], y, x, counts) / counts.clamp(min=1)[:, None])
    return torch.cat(results) if results else maps.reshape(-1, maps.shape[-1])[:0]


def as_output(values, like):
    """(R height width, C) -> (R, C, height, width)."""
    regions, channels, height, width = like.shape
    return values.view(regions, height, width, channels).permute(0, 3, 1, 2)


def as_values(output):
    """The inverse of `as_output`."""
    return output.permute(0, 2, 3, 1).reshape(-1, output.shape[1])


def rotated_means(maps, rois, size, spatial_scale, sampling_ratio, aligned, clockwise):
    """rois: (R, 6): image index, centre x, centre y, width, height, radians."""
    centre = rois[:, 1:3] * spatial_scale - (.5 if aligned else 0)
    extent = rois[:, 3:5] * spatial_scale
    if not aligned:
        extent = extent.clamp(min=1)
    elif (extent < 0).any():
        raise RuntimeError('roi_align_rotated: a region has a negative width or height')
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    cos, sin = angle.cos(), angle.sin()

    def rotate(region, _, places):
        x, y = places.unbind(1)
        c, s = cos[region], sin[region]
        return centre[region] + torch.stack([y * s + x * c, y * c - x * s], 1)

    return mean_of_grid(maps, rois[:, 0].long(), Grid(-extent / 2, extent, size, sampling_ratio), rotate)


def roi_align_rotated_forward(input, rois, output, pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned,
                              clockwise):
    input, rois = widened(input, rois)
    output.copy_(as_output(rotated_means(channels_last(input), rois, (pooled_height, pooled_width), spatial_scale,
                                         sampling_ratio, aligned, clockwise), output))


def roi_align_rotated_backward(grad_output, rois, grad_input, pooled_height, pooled_width, spatial_scale,
                               sampling_ratio, aligned, clockwise):
    grad_output, rois = widened(grad_output, rois)
    count, channels, height, width = grad_input.shape
    maps = grad_output.new_zeros(count, height, width, channels)  # the gradient does not depend on the values
    with torch.enable_grad():
        maps.requires_grad_()
        values = rotated_means(maps, rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned,
                               clockwise)
        gradient, = torch.autograd.grad(values, maps, as_values(grad_output))
    grad_input.copy_(gradient.permute(0, 3, 1, 2))


def deformed_means(maps, rois, offset, size, spatial_scale, sampling_ratio, gamma):
    """rois: (R, 5): image index, x1, y1, x2, y2. offset: (R, 2, height, width), x and y by the region's size, or
    empty."""
    start, end = (rois[:, 1:] * spatial_scale - .5).split(2, 1)
    extent = end - start
    shift = gamma * extent[:, :, None] * offset.flatten(2) if offset.numel() else None

    def move(region, bin_index, places):
        return places if shift is None else places + shift[region, :, bin_index % (size[0] * size[1])]

    return mean_of_grid(maps, rois[:, 0].long(), Grid(start, extent, size, sampling_ratio), move)


def deform_roi_pool_forward(input, rois, offset, output, pooled_height, pooled_width, spatial_scale, sampling_ratio,
                            gamma):
    input, rois, offset = widened(input, rois, offset)
    output.copy_(as_output(deformed_means(channels_last(input), rois, offset, (pooled_height, pooled_width),
                                          spatial_scale, sampling_ratio, gamma), output))


def deform_roi_pool_backward(grad_output, input, rois, offset, grad_input, grad_offset, pooled_height, pooled_width,
                             spatial_scale, sampling_ratio, gamma):
    grad_output, input, rois, offset = widened(grad_output, input, rois, offset)
    with torch.enable_grad():
        inputs = [channels_last(input.detach()).requires_grad_(), offset.detach().requires_grad_()]
        values = deformed_means(inputs[0], rois, inputs[1], (pooled_height, pooled_width), spatial_scale,
                                sampling_ratio, gamma)
        needed = inputs if offset.numel() else inputs[:1]
        gradients = torch.autograd.grad(values, needed, as_values(grad_output))
    grad_input.copy_(gradients[0].permute(0, 3, 1, 2))
    if offset.numel():
        grad_offset.copy_(gradients[1])


def aligned_sums(maps, boxes, spatial_scale, points):
    """The sum of the samples at a box's centre, and with points=5 also at its corners: (N H W, C).

    boxes: (N H W, 5): centre y, centre x, width, height, radians. mmcv reads the two centres in this order.
    """
    y, x = (boxes[:, :2] * spatial_scale).unbind(1)
    xs, ys = [x], [y]
    if points > 1:
        half_width, half_height = (boxes[:, 2:4] * spatial_scale / 2).unbind(1)
        cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
        for side, end in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
            xs.append(x + side * cos * half_width - end * sin * half_height)
            ys.append(y + side * sin * half_width + end * cos * half_height)
    per_image = maps.shape[1] * maps.shape[2]
    image = torch.arange(len(boxes), device=boxes.device) // per_image
    return pooled(maps, image.repeat_interleave(len(xs)), torch.stack(ys, 1).flatten(), torch.stack(xs, 1).flatten(),
                  torch.full_like(image, len(xs)))


def rotated_feature_align_forward(features, best_bboxes, output, spatial_scale, points):
    features, boxes = widened(features, best_bboxes)
    maps = channels_last(features)
    output.copy_(features + as_output(aligned_sums(maps, boxes.reshape(-1, 5), spatial_scale, points), output))


def rotated_feature_align_backward(top_grad, best_bboxes, bottom_grad, spatial_scale, points):
    gradient, boxes = widened(top_grad, best_bboxes)
    maps = torch.zeros_like(channels_last(gradient))
    with torch.enable_grad():
        maps.requires_grad_()
        sums = aligned_sums(maps, boxes.reshape(-1, 5), spatial_scale, points)
        through_samples, = torch.autograd.grad(sums, maps, as_values(gradient))
    bottom_grad.copy_(gradient + through_samples.permute(0, 3, 1, 2))
