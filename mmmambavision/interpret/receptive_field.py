"""The effective receptive field (Luo et al. 2016, arXiv 1701.04128)."""
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

import torch
import torch.nn.functional as F


def centre_gradient(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor,
                    stride: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The gradient of the centre of a map with respect to each pixel.

    Args:
        network: function from images (B, 3, H, W) to a map (B, C, H', W'). Position (i, j) of the map must be centred
            on pixel (stride i, stride j). This is true for MambaVision, because all its convolutions have kernel 3 and
            padding 1.
        images: (B, 3, H, W), normalised.
        stride: stride of the map.

    Returns:
        The field (H, W): the absolute gradient of the channel mean at position (H' // 2, W' // 2), summed over image
        channels and batch. And its central pixel (row, column).
    """
    images = images.detach().requires_grad_()
    output = network(images)
    position = output.shape[2] // 2, output.shape[3] // 2
    gradient, = torch.autograd.grad(output[:, :, position[0], position[1]].mean(1).sum(), images)
    return gradient.abs().sum((0, 1)), (position[0] * stride, position[1] * stride)


def effective_receptive_field(network: Callable[[torch.Tensor], torch.Tensor], batches: Iterable[torch.Tensor],
                              stride: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The mean of `centre_gradient` over batches of one image (1, 3, H, W), aligned at their centres.

    Returns:
        The field (H, W), large enough for all images, and its centre (row, column).
    """
    count = 0

    def gradients() -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
        nonlocal count
        for images in batches:
            count += 1
            yield centre_gradient(network, images, stride)

    total, centre = reduce(_add, gradients())
    return total / count, centre


def _add(one: tuple[torch.Tensor, tuple[int, int]],
         other: tuple[torch.Tensor, tuple[int, int]]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Add two fields, aligned at their centres."""
    centre = max(one[1][0], other[1][0]), max(one[1][1], other[1][1])
    after = [max(field.shape[i] - c[i] for field, c in (one, other)) for i in (0, 1)]
    padded = [F.pad(field, (centre[1] - c[1], after[1] - field.shape[1] + c[1],
                            centre[0] - c[0], after[0] - field.shape[0] + c[0])) for field, c in (one, other)]
    return padded[0] + padded[1], centre


def radius_of_half(field: torch.Tensor, centre: Sequence[int]) -> float:
    """Radius in pixels of the smallest disc around the centre (row, column) with half of the sum of a field (H, W)."""
    rows, columns = (torch.arange(side, device=field.device) - c for side, c in zip(field.shape, centre))
    distances, order = (rows[:, None] ** 2 + columns ** 2).double().sqrt().flatten().sort()
    held = field.double().flatten()[order].cumsum(0)
    return distances[torch.searchsorted(held, held[-1:] / 2)].item()
