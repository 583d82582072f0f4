"""A feature map to sequences of tokens and back."""
import torch.nn.functional as F


def padded_size(size, window):
    """(H, W) rounded up to multiples of `window`; unchanged for None, the whole map."""
    if window is None:
        return tuple(size)
    return tuple(-(-side // window) * window for side in size)


def pad_to_windows(x, window):
    """Zero-pad a map (B, H, W, C) at the right and the bottom so that `window` divides both sides."""
    height, width = x.shape[1:3]
    padded_height, padded_width = padded_size((height, width), window)
    if (padded_height, padded_width) == (height, width):
        return x
    return F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))


def to_windows(x, window):
    """(B, H, W, C), sides multiples of `window`, to (B * windows, window * window, C), row-major in and between windows.

    With None the whole map is one sequence and nothing is copied.
    """
    batch, height, width, channels = x.shape
    if window is None:
        return x.reshape(batch, height * width, channels)
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(tokens, window, size):
    """Inverse of `to_windows` for a map of `size` (H, W): to (B, H, W, C)."""
    height, width = size
    channels = tokens.shape[-1]
    if window is None:
        return tokens.reshape(-1, height, width, channels)
    x = tokens.reshape(-1, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)
