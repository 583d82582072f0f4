"""The contents of mmcv._ext: the operators of this package, and functions that raise an error for all others."""
from importlib import metadata

import torch
import torchvision

from . import boxes, deformable, focal_loss, reassembled, regions, rotated_boxes, sampled


def get_compiler_version():
    return f'none (operators of torchvision {torchvision.__version__} and torch, by mmmambavision)'


def get_compiling_cuda_version():
    version = torch.ops.torchvision._cuda_version()
    return f'{version // 1000}.{version // 10 % 100}' if version > 0 else 'not available'


def missing(name):
    """A function that raises an error when called. mmcv.ops needs all names at import, so the import must succeed."""
    if name.startswith('_'):
        raise AttributeError(f'module mmcv._ext has no attribute {name!r}')

    def refuse(*args, **kwargs):
        raise NotImplementedError(f"mmcv's operator {name} needs mmcv with compiled operators: {how_to_compile()}.")

    return refuse


def how_to_compile():
    try:
        release, uninstall = f"onedl-mmcv=={metadata.version('onedl-mmcv')}", 'onedl-mmcv'
    except metadata.PackageNotFoundError:
        release, uninstall = 'mmcv==2.1.0', 'mmcv-lite'
    return (f'`pip uninstall {uninstall}`, then '
            f'`MMCV_WITH_OPS=1 pip install --no-cache-dir --no-build-isolation {release}`')


# mmcv's autograd functions pass result tensors to be filled in. If torch.compile traces these operators, it silently
# loses the gradients (torch 2.11). So they break the graph, as compiled operators do.
OPERATORS = {function.__name__: torch.compiler.disable(function) for function in (
    boxes.bbox_overlaps, boxes.nms_match, boxes.softnms, rotated_boxes.box_iou_quadri, rotated_boxes.box_iou_rotated,
    rotated_boxes.diff_iou_rotated_sort_vertices_forward,
    rotated_boxes.nms_quadri, rotated_boxes.nms_rotated, reassembled.active_rotated_filter_backward,
    reassembled.active_rotated_filter_forward, reassembled.carafe_backward, reassembled.carafe_forward,
    reassembled.carafe_naive_backward, reassembled.carafe_naive_forward, reassembled.masked_col2im_forward,
    reassembled.masked_im2col_forward, reassembled.psamask_backward, reassembled.psamask_forward,
    sampled.deform_roi_pool_backward, sampled.deform_roi_pool_forward, sampled.roi_align_rotated_backward,
    sampled.roi_align_rotated_forward, sampled.rotated_feature_align_backward, sampled.rotated_feature_align_forward,
    deformable.deform_conv_backward_input, deformable.deform_conv_backward_parameters, deformable.deform_conv_forward,
    deformable.modulated_deform_conv_backward, deformable.modulated_deform_conv_forward,
    deformable.ms_deform_attn_backward, deformable.ms_deform_attn_forward,
    focal_loss.sigmoid_focal_loss_backward, focal_loss.sigmoid_focal_loss_forward,
    focal_loss.softmax_focal_loss_backward, focal_loss.softmax_focal_loss_forward,
    regions.roi_align_backward, regions.roi_align_forward, regions.roi_pool_backward, regions.roi_pool_forward)}
OPERATORS |= {function.__name__: function for function in (boxes.nms, get_compiler_version, get_compiling_cuda_version)}
