"""Focal loss (arXiv 1708.02002), forward and backward.

Names and arguments follow mmcv's extension (mmcv._ext). Result tensors are filled in place.
Shapes: input, softmax and grad_input (N, C); target (N,); weight (C,), one per class, or empty.
"""
import torch

from .boxes import widened

TINY = torch.finfo(torch.float32).tiny  # lower bound in the logarithm, as in mmcv's kernels


def is_class(target, classes):
    return (target >= 0) & (target < classes)


def is_target(target, classes):
    """(N,) -> (N, C)"""
    return target[:, None] == torch.arange(classes, device=target.device)


def of_target(values, target):
    """The entry of values (..., C) at the target. If the target is not a class, any entry."""
    target = target.clamp(0, values.shape[-1] - 1)
    return values[target] if values.dim() == 1 else values.gather(1, target[:, None])[:, 0]


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """output: (N, C). If the target is not a class, all columns are background with weight 1."""
    input, weight = widened(input, weight)
    p = input.sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    negative = (alpha - 1) * p ** gamma * (1 - p).clamp(min=TINY).log()
    output.copy_(weighted_rows(torch.where(is_target(target, p.shape[1]), positive, negative), target, weight))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    input, weight = widened(input, weight)
    p = input.sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=TINY).log())
    negative = (alpha - 1) * p ** gamma * (gamma * (1 - p) * (1 - p).clamp(min=TINY).log() - p)
    grad_input.copy_(weighted_rows(torch.where(is_target(target, p.shape[1]), positive, negative), target, weight))


def weighted_rows(values, target, weight):
    if not weight.numel():
        return values
    return values * torch.where(is_class(target, len(weight)), of_target(weight, target), 1)[:, None]


def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    """output: (N,). The loss is 0 if the target is not a class, for example -1."""
    softmax, weight = widened(softmax, weight)
    p = of_target(softmax, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    if weight.numel():
        loss = loss * of_target(weight, target)
    output.copy_(torch.where(is_class(target, softmax.shape[1]), loss, 0))


def softmax_focal_loss_backward(softmax, target, weight, buff, grad_input, gamma, alpha):
    """The gradient with respect to the input of the softmax. buff (N,) gets the factor of each row."""
    softmax, weight = widened(softmax, weight)
    p = of_target(softmax, target)
    factor = alpha * (gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=TINY).log() - (1 - p) ** gamma)
    if weight.numel():
        factor = factor * of_target(weight, target)
    factor = torch.where(is_class(target, softmax.shape[1]), factor, 0)
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (is_target(target, softmax.shape[1]).to(factor) - softmax))
