"""Deformable convolution (arXiv 1703.06211, 1811.11168) and multi-scale deformable attention (arXiv 2010.04159).

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
Shapes: input (N, C, H, W); weight (O, C / group, kH, kW); offset (N, 2 deformable_group kH kW, H', W'); mask like
offset with half the channels; bias (O,). `columns`, `ones` and `im2col_step` are workspace of mmcv's kernels.
"""
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (it registers torch.ops.torchvision)

from .boxes import widened

OFF_THE_MAP = -1e4


def operands(input, weight, offset, mask=None, bias=None):
    """The first arguments of torchvision's operators. Zeros replace a missing mask or bias."""
    # torchvision crashes on a NaN offset. A sample outside the map is 0.
    offset = offset.nan_to_num(OFF_THE_MAP, OFF_THE_MAP, OFF_THE_MAP)
    return (input, weight, offset, input.new_zeros(len(input), 1) if mask is None else mask,
            weight.new_zeros(len(weight)) if bias is None else bias)


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH,
                        group, deformable_group, im2col_step):
    output.copy_(torch.ops.torchvision.deform_conv2d(
        *widened(*operands(input, weight, offset)),
        dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, kW, kH, dW, dH,
                               padW, padH, dilationW, dilationH, group, deformable_group, im2col_step):
    for_input, for_weight, for_offset, *_ = torch.ops.torchvision._deform_conv2d_backward(
        *widened(grad_output, *operands(input, weight, offset)),
        dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    grad_input.copy_(for_input)
    grad_offset.copy_(without_edges(
        for_offset, offset, input, (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW)))
    # Keep the weight's gradient: mmcv requests it next with the same columns, and it took a third of the time.
    columns.for_weight = grad_output, grad_output._version, for_weight


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, kW, kH, dW, dH, padW, padH,
                                    dilationW, dilationH, group, deformable_group, scale, im2col_step):
    """Adds to grad_weight."""
    known, version, for_weight = columns.__dict__.pop('for_weight', (None, None, None))
    if known is not grad_output or version != grad_output._version:
        # The gradient does not depend on the weights' values, so grad_weight can stand in for them.
        for_weight = torch.ops.torchvision._deform_conv2d_backward(
            *widened(grad_output, *operands(input, grad_weight, offset)),
            dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)[1]
    grad_weight.add_(for_weight, alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
                                  with_bias):
    offset, mask = (reshaped(tensor, output.shape[2:]) for tensor in (offset, mask))
    output.copy_(torch.ops.torchvision.deform_conv2d(
        *widened(*operands(input, weight, offset, mask, bias if with_bias else None)),
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True))


def modulated_deform_conv_backward(input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight,
                                   grad_bias, grad_offset, grad_mask, grad_output, kernel_h, kernel_w, stride_h,
                                   stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, with_bias):
    offset, mask = (reshaped(tensor, grad_output.shape[2:]) for tensor in (offset, mask))
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        *widened(grad_output, *operands(input, weight, offset, mask, bias if with_bias else None)),
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True)
    gradients = list(gradients)
    gradients[2] = without_edges(gradients[2], offset, input, (kernel_h, kernel_w), (stride_h, stride_w),
                                 (pad_h, pad_w), (dilation_h, dilation_w))
    if grad_offset.shape != offset.shape:
        for result in (grad_offset, grad_mask):
            result.zero_()
        grad_offset, grad_mask = (reshaped(tensor, grad_output.shape[2:]) for tensor in (grad_offset, grad_mask))
    results = grad_input, grad_weight, grad_offset, grad_mask, grad_bias
    for result, gradient in zip(results if with_bias else results[:-1], gradients):
        result.copy_(gradient)


def reshaped(tensor, size):
    """Offsets or mask (N, C, H, W) as mmcv reads them: (N, C, *size) from the beginning of each image's memory.

    mmdet's DyHead passes offsets of a larger map. mmcv does not compare their size with the output's.
    """
    if tensor.shape[2:] == size:
        return tensor
    channels, needed = tensor.shape[1], tensor.shape[1] * size[0] * size[1]
    if tensor[0].numel() < needed:
        raise RuntimeError(f'modulated_deform_conv: offset and mask have the size {tuple(tensor.shape[2:])}, but the '
                           f'output has {tuple(size)}. They must not be smaller than the output')
    return tensor.view(len(tensor), -1)[:, :needed].unflatten(1, (channels, *size))


def without_edges(gradient, offset, input, kernel, stride, padding, dilation):
    """Set the gradient of offsets to 0 for samples one pixel or more outside the map, as mmcv does.

    torchvision's gradient is not 0 for samples exactly one pixel outside. With zero offsets,
    samples at the border of the map are exactly one pixel outside.
    """
    offset, = widened(offset)
    batch, _, *out = offset.shape
    shape = batch, -1, kernel[0] * kernel[1], 2, *out
    off_the_map = False
    for axis in (0, 1):
        first = torch.arange(out[axis], device=offset.device) * stride[axis] - padding[axis]
        taps = torch.arange(kernel[axis], device=offset.device) * dilation[axis]
        taps = taps.repeat_interleave(kernel[1]) if axis == 0 else taps.repeat(kernel[0])
        place = offset.view(shape)[:, :, :, axis] + taps[:, None, None] + (first[:, None] if axis == 0 else first)
        off_the_map = off_the_map | (place <= -1) | (place >= input.shape[2 + axis])
    return gradient.view(shape).masked_fill(off_the_map[:, :, :, None], 0).view(gradient.shape)


def ms_deform_attn_forward(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights,
                           im2col_step):
    """Weighted sum of samples of the value maps -> (B, queries, heads channels).

    value: (B, keys, heads, channels), the concatenated maps of all levels; value_spatial_shapes: (levels, 2), height
    and width of each level; value_level_start_index: (levels,), the first key of each level; sampling_locations: (B,
    queries, heads, levels, points, 2), x and y from 0 to 1; attention_weights: (B, queries, heads, levels, points).
    """
    dtype = value.dtype
    value, locations, weights = widened(value, sampling_locations, attention_weights)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)
    grid = 2 * locations.transpose(1, 2).flatten(0, 1) - 1
    weights = weights.transpose(1, 2).flatten(0, 1)
    output = 0
    for level, (start, (height, width)) in enumerate(zip(value_level_start_index.tolist(),
                                                         value_spatial_shapes.tolist())):
        level_maps = maps[..., start:start + height * width].unflatten(2, (height, width))
        samples = F.grid_sample(level_maps, grid[:, :, level], align_corners=False)
        output = output + (samples * weights[:, None, :, level]).sum(-1)
    heads = value.shape[2]
    return output.unflatten(0, (len(value), heads)).flatten(1, 2).transpose(1, 2).contiguous().to(dtype)


def ms_deform_attn_backward(value, value_spatial_shapes, value_level_start_index, sampling_locations,
                            attention_weights, grad_output, grad_value, grad_sampling_loc, grad_attn_weight,
                            im2col_step):
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
        output = ms_deform_attn_forward(
            inputs[0], value_spatial_shapes, value_level_start_index, *inputs[1:], im2col_step)
        gradients = torch.autograd.grad(output, inputs, grad_output)
    for result, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients):
        result.copy_(gradient)
