"""Windows of attention that cost the same per pixel on maps of every size, without padding or masks."""
import torch

from ..errors import UserError
from ..ops.transforms import is_exporting


class BalancedCut:
    """A map of H x W tokens in ceil(H / side) x ceil(W / side) windows whose sides differ by one token at most.

    Windows of one size lie side by side, the larger ones first, so that attention is called for four sizes at most.

    Args:
        height, width: of the map.
        side: the most tokens of a window's side.

    Raises:
        UserError: a graph is exported, which would keep the windows of its sample.
    """

    def __init__(self, height, width, side):
        if is_exporting():
            raise UserError('balanced windows are not exported: their sizes follow from the map. Export with '
                            'window_size=None, or with fixed windows')
        self.height, self.width = height, width
        self.rows, self.columns = _runs(height, side), _runs(width, side)

    @property
    def is_whole(self):
        """Whether there is one window."""
        return [(self.height, 1)] == self.rows and [(self.width, 1)] == self.columns

    def map(self, attend, *tokens):
        """`attend` of queries, keys and values (B, heads, H * W, d), window by window, in the same shape."""
        maps = [value.unflatten(2, (self.height, self.width)) for value in tokens]
        bands = zip(*(value.split([size * count for size, count in self.rows], 2) for value in maps))
        return torch.cat([self._band(attend, band, *run) for run, band in zip(self.rows, bands)], 2).flatten(2, 3)

    def _band(self, attend, band, height, rows):
        """Rows of windows of one height, (B, heads, rows * height, W, d)."""
        parts = zip(*(value.split([size * count for size, count in self.columns], 3) for value in band))
        return torch.cat([_in_windows(attend, part, height, rows, width, columns)
                          for (width, columns), part in zip(self.columns, parts)], 3)


def _in_windows(attend, maps, height, rows, width, columns):
    """`attend` of maps (B, heads, rows * height, columns * width, d) in equal windows."""
    batch, heads = maps[0].shape[:2]
    windows = [value.reshape(batch, heads, rows, height, columns, width, -1).permute(0, 2, 4, 1, 3, 5, 6)
               .reshape(batch * rows * columns, heads, height * width, -1) for value in maps]
    found = attend(*windows).reshape(batch, rows, columns, heads, height, width, -1).permute(0, 3, 1, 4, 2, 5, 6)
    return found.reshape(batch, heads, rows * height, columns * width, -1)


def _runs(length, side):
    """(size, count) of the parts that a side of `length` tokens is cut into, larger ones first."""
    parts = -(-length // side)
    size, larger = divmod(length, parts)
    return [run for run in ((size + 1, larger), (size, parts - larger)) if run[1]]
