"""A picture, the network input made from it, and the mapping between their pixels."""
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from ..errors import UserError


def read_pixels(path: str | PathLike[str]) -> np.ndarray[Any, Any]:
    """Read an image file as (height, width, 3) RGB uint8, turned by its EXIF orientation.

    Raises:
        UserError: the file does not exist, is not an image or is damaged.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I;16'):  # Pillow would convert all values above 255 to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert('RGB'))
    except FileNotFoundError:
        raise UserError(f'image not found: {path}') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f'{path} is not a readable image, or it is damaged: {error}') from None


class Picture(NamedTuple):
    """A picture and its network input.

    Args:
        name: name for messages.
        pixels: (height, width, 3) RGB, uint8, original size.
        input: (1, 3, H, W), normalised: the resized picture at the upper left, padded at the right and bottom.
        filled: size (height, width) of the resized picture in the input.
        sample: data sample of the model, or None.
    """
    name: str
    pixels: np.ndarray[Any, Any]
    input: torch.Tensor
    filled: Sequence[int]
    sample: Any = None

    def token(self, point: Sequence[float], stride: int) -> tuple[int, int]:
        """The token (row, column) at a point.

        Args:
            point: x, y in pixels of the picture.
            stride: stride of the map.

        Raises:
            UserError: the point is not on the picture.
        """
        height, width = self.pixels.shape[:2]
        x, y = point
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f'the point {x},{y} is not on {self.name}, which is {width} pixels wide and {height} high')
        return (int((y + .5) * self.filled[0] / height / stride), int((x + .5) * self.filled[1] / width / stride))

    def on_pixels(self, maps: torch.Tensor | np.ndarray[Any, Any], stride: int,
                  smooth: bool = True) -> np.ndarray[Any, Any]:
        """Resize maps (K, h, w) of a stride to the picture, (K, height, width) numpy, without padding.

        `smooth` interpolates between cell centres. Otherwise a cell has one value.
        """
        maps = torch.as_tensor(maps)[None].float().cpu()
        maps = F.interpolate(maps, scale_factor=float(stride), mode='bilinear' if smooth else 'nearest')
        maps = maps[:, :, :self.filled[0], :self.filled[1]]
        return F.interpolate(maps, self.pixels.shape[:2], mode='bilinear', antialias=True)[0].numpy()

    def around_centre(self, field: torch.Tensor, centre: Sequence[int], stride: int) -> np.ndarray[Any, Any]:
        """Draw a field (h, w) of input pixels on the picture, as `on_pixels`.

        The centre of the field is moved to the central position of a map with this stride.
        """
        rows, columns = (slice(c - own, c - own + side) for c, own, side in zip(
            centre, self._central_pixel(stride), self.input.shape[2:]))
        return self.on_pixels(field[None, rows, columns], 1)

    def disc(self, radius: float, stride: int) -> tuple[float, float, float]:
        """Convert a disc to pixels of the picture: centre x, centre y, radius.

        The disc is around the central position of a map with this stride. `radius` is in pixels of the input.
        """
        row, column = self._central_pixel(stride)
        x, y = ((p + .5) * side / filled - .5 for p, side, filled in zip(
            (column, row), self.pixels.shape[1::-1], self.filled[::-1]))
        return x, y, radius * self.pixels.shape[1] / self.filled[1]

    def _central_pixel(self, stride: int) -> list[int]:
        return [-(-side // stride) // 2 * stride for side in self.input.shape[2:]]
