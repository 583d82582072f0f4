"""What a model's data preprocessor does to images, inside the exported graph."""
import torch
import torch.nn.functional as F
from torch import nn


class Preprocessor(nn.Module):
    """Normalisation and padding of mmdet's or mmseg's data preprocessor: RGB images (B, 3, H, W), 0 to 255, to the
    network's (B, 3, H', W'), filled up at the right and below.

    Args:
        settings: the config's data_preprocessor.
        divisor: what H' and W' are multiples of; None for images as they are.
        value: what normalised images are filled up with.
    """

    def __init__(self, settings, divisor, value):
        super().__init__()
        self.divisor, self.value = divisor or 1, value
        self.takes_bgr = not (settings.get('bgr_to_rgb') or settings.get('rgb_to_bgr'))  # as files are loaded
        for name, default in (('mean', (0.,) * 3), ('std', (1.,) * 3)):
            numbers = torch.tensor(settings.get(name) or default)
            self.register_buffer(name, numbers[:, None, None], persistent=False)

    def forward(self, images):
        height, width = images.shape[2:]
        x = ((images.flip(1) if self.takes_bgr else images) - self.mean) / self.std
        return x if self.divisor == 1 else F.pad(
            x, (0, -width % self.divisor, 0, -height % self.divisor), value=self.value)
