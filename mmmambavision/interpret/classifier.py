"""An ImageNet classifier by its timm name, for visualization."""
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, resolve_data_config
from torch import nn

from .. import timm_models
from ..errors import UserError
from .picture import Picture, read_pixels


class Classifier:
    """A classifier with its weights and the methods of `openmmlab.subject.Subject`.

    Args:
        name: a model of `timm_models`, for example 'mambavision_tiny'.
        checkpoint: path, URL or hf:// name; None for the released weights.
        device: device of the model.

    Raises:
        UserError: the model does not exist, or its weights cannot be loaded or are of another model.
    """

    def __init__(self, name: str, checkpoint: str | None, device: str | torch.device) -> None:
        if name.split('.')[0] not in timm_models.__all__:
            raise UserError(f"no classifier '{name}'. Choose one of {', '.join(timm_models.__all__)}")
        overlay = dict(file=checkpoint) if checkpoint else None
        self.name, self.device = name, device
        self.model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval().to(device)
        self.data = resolve_data_config(model=self.model)

    def untrained(self) -> nn.Module:
        """The same network with random weights."""
        return timm.create_model(self.name, pretrained=False).eval().to(self.device)

    def prepare(self, path: str | PathLike[str]) -> Picture:
        """Load a picture, resized to the training size of the classifier without keeping its aspect ratio."""
        pixels = read_pixels(path)
        size = self.data['input_size'][1:]
        resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC), np.float32) / 255
        normed = (resized - np.float32(self.data['mean'])) / np.float32(self.data['std'])
        return Picture(str(path), pixels, torch.from_numpy(normed).permute(2, 0, 1)[None].to(self.device), size)

    def explain(self, picture: Picture, class_name: str | None = None,
                box: Any = None) -> tuple[Callable[[torch.Tensor], torch.Tensor], str, None]:
        """The logit of a class, by class number or ImageNet name; None for the most probable class.

        Returns:
            A function from an image to the logit, a description, and None for the box.

        Raises:
            UserError: the class does not exist, or `box` is given.
        """
        if box is not None:
            raise UserError('a box can be explained only for a detector')
        names = self._names()
        if class_name is None:
            with torch.no_grad():
                number = self.model(picture.input)[0].argmax().item()
        else:
            numbers = [i for i, name in enumerate(names) if class_name in (str(i), *name.split(', '))]
            if not numbers:
                raise UserError(f"no class '{class_name}': give its number, 0 to {len(names) - 1}, or its ImageNet "
                                'name')
            number = numbers[0]
        return lambda image: self.model(image)[0, number], f'logit of {names[number].split(", ")[0]}', None

    def _names(self) -> list[str]:
        count = self.model.num_classes
        if count != 1000:
            return [*map(str, range(count))]
        return list(ImageNetInfo().label_descriptions())
