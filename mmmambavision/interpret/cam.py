"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) with the package grad-cam."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UserError

# Without --no-deps, pip would install opencv-python-headless over opencv-python.
INSTALL = 'pip install scikit-learn ttach && pip install --no-deps grad-cam'


class _Scored(nn.Module):
    """A model whose output is the score to explain, (1,)."""

    def __init__(self, model: nn.Module, score: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.score = score

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.score(images).reshape(1)


def load_grad_cam() -> Any:
    """The package's GradCAM.

    Raises:
        UserError: the package or one of its dependencies is not installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ModuleNotFoundError as error:
        raise UserError(f'cam needs the package grad-cam ({error}): {INSTALL}') from None
    return GradCAM


def grad_cam(model: nn.Module, level: nn.Module, image: torch.Tensor,
             score: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray[Any, Any]:
    """Grad-CAM of a level for a score: the sum of its channels, weighted by their mean gradients, clipped at 0.

    Args:
        model: the whole model. Its gradients are reset.
        level: an entry of `trunk.levels`.
        image: (1, 3, H, W), normalised.
        score: function from an image to a tensor with one element.

    Returns:
        (H, W) numpy array from 0 to 1, or all 0 if no position supports the score.
    """
    cam = load_grad_cam()(_Scored(model, score), [level])
    try:
        return cam(image.detach().requires_grad_(), [lambda output: output])[0]
    finally:
        cam.activations_and_grads.release()
        model.zero_grad()
