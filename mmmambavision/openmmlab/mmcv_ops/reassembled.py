"""Operators that move values by index, forward and backward.

CARAFE (arXiv 1905.02188), the masks of PSANet (ECCV 2018), the masked convolution of guided anchoring
(arXiv 1901.03278), and active rotating filters (arXiv 1701.01833).

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
"""
import torch
import torch.nn.functional as F

from .boxes import widened


def carafe_taps(features, masks, kernel_size, group_size, scale_factor):
    """Yield for each tap of the kernel: its place (y, x), the features under it and its weights, to be multiplied.

    features: (N, C, H, W); masks: (N, groups kernel², s H, s W). The features are (N, groups, C / groups, H, 1, W, 1),
    the weights (N, groups, 1, H, s, W, s).
    """
    height, width = features.shape[2:]
    padded = F.pad(features.unflatten(1, (group_size, -1)), [kernel_size // 2] * 4)
    masks = masks.view(len(masks), group_size, kernel_size ** 2, height, scale_factor, width, scale_factor)
    for tap in range(kernel_size ** 2):
        y, x = divmod(tap, kernel_size)
        yield (y, x), padded[..., y:y + height, None, x:x + width, None], masks[:, :, tap, None]


def carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor):
    """Each output pixel is a weighted sum of the kernel_size² features around it; output: (N, C, s H, s W)."""
    features, masks = widened(features, masks)
    total = 0
    for _, below, weight in carafe_taps(features, masks, kernel_size, group_size, scale_factor):
        total = torch.addcmul(total, below, weight) if torch.is_tensor(total) else below * weight
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(top_grad, features, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor):
    top_grad, features, masks = widened(top_grad, features, masks)
    height, width = features.shape[2:]
    top_grad = top_grad.view(len(features), group_size, -1, height, scale_factor, width, scale_factor)
    margin = kernel_size // 2
    for_features = F.pad(torch.zeros_like(features).unflatten(1, (group_size, -1)), [margin] * 4)
    for_masks = []
    for (y, x), below, weight in carafe_taps(features, masks, kernel_size, group_size, scale_factor):
        for_features[..., y:y + height, x:x + width] += (top_grad * weight).sum((4, 6))
        for_masks.append((top_grad * below).sum(2))
    bottom_grad.copy_(for_features[..., margin:margin + height, margin:margin + width].reshape(bottom_grad.shape))
    mask_grad.copy_(torch.stack(for_masks, 2).reshape(mask_grad.shape))


def carafe_forward(features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor):
    """As `carafe_naive_forward`. mmcv hands `rfeatures` to the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(top_grad, rfeatures, masks, rtop_grad, rbottom_grad_hs, rbottom_grad, rmask_grad, bottom_grad,
                    mask_grad, kernel_size, group_size, scale_factor):
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def mask_channels(height, width, h_mask, w_mask, half_h_mask, half_w_mask, device):
    """The mask channel of pixel (h, w) that weights pixel (y, x), and whether it exists: (H W, H, W)."""
    def along(size, mask, half):
        place = torch.arange(size, device=device)
        tap = place[:, None] - place + half  # of (y, h)
        return tap, (tap >= 0) & (tap < mask)

    row, has_row = along(height, h_mask, half_h_mask)
    column, has_column = along(width, w_mask, half_w_mask)
    channel = row[:, None, :, None] * w_mask + column[None, :, None, :]
    exists = has_row[:, None, :, None] & has_column[None, :, None, :]
    return channel.where(exists, 0).flatten(0, 1), exists.flatten(0, 1)


def psamask_forward(input, output, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask):
    """Place the mask of each pixel on the whole map; the map is 0 outside the mask.

    input: (N, h_mask w_mask, H, W); output: (N, H W, H, W). With type 0 (collect), dimension 1 is the map and
    dimensions 2 and 3 are the pixel. With type 1 (distribute), it is the reverse.
    """
    channel, exists = mask_channels(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device)
    collected = input.gather(1, channel.expand(num_, -1, -1, -1)).masked_fill(~exists, 0)
    output.copy_(collected if psa_type == 0 else collected.flatten(2).transpose(1, 2).view_as(output))


def psamask_backward(grad_output, grad_input, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask,
                     half_w_mask):
    channel, exists = mask_channels(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, grad_output.device)
    if psa_type == 1:
        grad_output = grad_output.flatten(2).transpose(1, 2).reshape(grad_output.shape)
    grad_input.zero_().scatter_add_(1, channel.expand(num_, -1, -1, -1), grad_output.masked_fill(~exists, 0))


def masked_im2col_forward(im, mask_h_idx, mask_w_idx, col, kernel_h, kernel_w, pad_h, pad_w):
    """The neighbourhood of each chosen pixel of one image. im: (1, C, H, W); col: (C kernel_h kernel_w, pixels)."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].view_as(col))


def masked_col2im_forward(col, mask_h_idx, mask_w_idx, im, height, width, channels):
    """Write col (C, pixels) to the chosen pixels of im (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def rotated_places(indices):
    """indices: (orientations, H, W, rotations), from 1 -> the new place of each entry (rotations, 1, entries)."""
    return indices.flatten(0, 2).t()[:, None].long() - 1


def active_rotated_filter_forward(input, indices, output):
    """Rotated copies of filters. input: (O, I, orientations, H, W); output: (O rotations, I orientations, H, W)."""
    places = rotated_places(indices)
    filters = input.flatten(2)[:, None].expand(-1, len(places), -1, -1)
    output.view(filters.shape).scatter_(3, places.expand_as(filters), filters)


def active_rotated_filter_backward(grad_out, indices, grad_in):
    places = rotated_places(indices)
    out, planes = grad_in.shape[:2]
    gradient = grad_out.reshape(out, len(places), planes, -1)
    grad_in.copy_(gradient.gather(3, places.expand_as(gradient)).sum(1).view_as(grad_in))
