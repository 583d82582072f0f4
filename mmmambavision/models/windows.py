"""Windows: groups of tokens that the blocks of a level process together.

There is one class for each type of window. An object describes the windows of a map of H x W tokens:

- `to_tokens` converts a map (B, H, W, C) to sequences (B * sequences, L, C), and `to_map` is its inverse;
- `positions` gives the map position of each token, and marks padding;
- `attention_windows` gives the tokens of each attention window;
- `kept` and `cut` are arguments of the blocks, see `HybridBlock`.
"""
import torch
import torch.nn.functional as F

from ..errors import UserError
from ..ops.transforms import is_exporting


class WholeMap:
    """One window over the whole map: L = H * W tokens, row by row, without padding."""

    kept = cut = None

    def __init__(self, height, width, device=None):
        self.height, self.width, self.device = height, width, device

    def to_tokens(self, x):
        return x.reshape(x.shape[0], self.height * self.width, x.shape[3])

    def to_map(self, tokens):
        return tokens.reshape(-1, self.height, self.width, tokens.shape[2])

    def positions(self):
        """Position row * W + column on the map of each token of one image, -1 for padding: (sequences, L)."""
        return torch.arange(self.height * self.width, device=self.device)[None]

    def attention_windows(self):
        """Attention windows, one tensor (windows, tokens) for each window size.

        The values are indices into the tokens of one image, flattened to (sequences * L).
        """
        positions = self.positions()
        return [torch.arange(positions.numel(), device=self.device).view(positions.shape)]


class FixedWindows(WholeMap):
    """Windows of side x side tokens: one sequence for each window, row by row.

    The map is zero-padded at the right and the bottom to a multiple of `side`. All blocks also process the padding, as
    in the released training.
    """

    def __init__(self, height, width, side, device=None):
        super().__init__(height, width, device)
        self.side = side
        # Not -(-height // side), which ONNX rounds towards zero.
        self.rows, self.columns = (height + side - 1) // side, (width + side - 1) // side
        self._any_size = is_exporting()
        if not self._any_size and self.rows == self.columns == 1 and (height, width) != (side, side):
            # One window with padding: the last block can skip the padding, because no output uses it.
            self.kept = torch.arange(side ** 2, device=device).view(side, side)[:height, :width].flatten()

    def to_tokens(self, x):
        if self._any_size:
            return self._gather_tokens(x)
        batch, height, width, channels = x.shape
        rows, columns, side = self.rows, self.columns, self.side
        if (rows * side, columns * side) != (height, width):
            x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        x = x.reshape(batch, rows, side, columns, side, channels)
        return x.transpose(2, 3).reshape(batch * rows * columns, side * side, channels)

    def to_map(self, tokens):
        if self._any_size:
            return super().to_map(tokens.reshape(-1, self._count * self.side ** 2, tokens.shape[2])[:, self._places])
        if self.kept is not None and tokens.shape[1] == len(self.kept):
            return super().to_map(tokens)  # the last block has removed the padding
        rows, columns, side = self.rows, self.columns, self.side
        x = tokens.reshape(-1, rows, columns, side, side, tokens.shape[2]).transpose(2, 3)
        return x.reshape(x.shape[0], rows * side, columns * side, -1)[:, :self.height, :self.width]

    def positions(self):
        position = super().positions().view(1, self.height, self.width, 1) + 1
        return self.to_tokens(position)[..., 0] - 1

    def _gather_tokens(self, x):
        """`to_tokens` with the same operations for every map size, for exported graphs.

        Tokens are gathered by their places in the windows. `to_map` uses the same places.
        """
        batch, height, width, channels = x.shape
        side, area = self.side, self.side ** 2
        row, column = (torch.arange(length, device=x.device) for length in (height, width))
        window = (row // side)[:, None] * self.columns + column // side
        self._places = (window * area + (row % side)[:, None] * side + column % side).flatten()
        # A tensor hides the number of windows of the sample. Otherwise, torch would fix a count of one in the graph.
        self._count = torch.scalar_tensor(self.rows * self.columns, dtype=torch.int64).item()
        torch._check(self._count >= 1)
        source = torch.full((self._count * area,), -1, dtype=torch.int64, device=x.device)
        source = source.scatter(0, self._places, torch.arange(height * width, device=x.device))
        tokens = torch.where((source >= 0)[:, None], x.reshape(batch, height * width, channels)[:, source], 0.)
        return tokens.reshape(batch * self._count, area, channels)


class BalancedWindows(WholeMap):
    """Attention in windows of nearly equal size without padding, and scans over the whole map.

    The cost per pixel does not grow with the map. The map is cut into ceil(H / side) x ceil(W / side) windows. Their
    sides differ by at most one token. Windows of the same size are neighbours, larger windows first, so at most four
    attention calls are necessary.

    Args:
        height, width: size of the map.
        side: maximum side of a window, in tokens.
        device: device of the index tensors.

    Raises:
        UserError: during an export for any image size, because the graph would store the windows of its sample.
    """

    def __init__(self, height, width, side, device=None):
        if is_exporting() and not (isinstance(height, int) and isinstance(width, int)):  # torch.SymInt: any size
            raise UserError('balanced windows cannot be exported for any image size, because their sizes depend on the '
                            'map. Export for one size, or with window_size=None or fixed windows', 'static')
        super().__init__(height, width, device)
        self.rows, self.columns = _runs(height, side), _runs(width, side)
        is_whole = self.rows == [(height, 1)] and self.columns == [(width, 1)]
        self.cut = None if is_whole else self

    def attend(self, attention, *tokens):
        """`attention` of queries, keys and values (B, heads, H * W, d), window by window, to the same shape."""
        maps = [value.unflatten(2, (self.height, self.width)) for value in tokens]
        bands = zip(*(value.split([size * count for size, count in self.rows], 2) for value in maps))
        return torch.cat([self._attend_band(attention, band, *run) for run, band in zip(self.rows, bands)],
                         2).flatten(2, 3)

    def _attend_band(self, attention, band, height, rows):
        """Attention in rows of windows with the same height, (B, heads, rows * height, W, d)."""
        parts = zip(*(value.split([size * count for size, count in self.columns], 3) for value in band))
        return torch.cat([_attend_equal(attention, part, height, rows, width, columns)
                          for (width, columns), part in zip(self.columns, parts)], 3)

    def attention_windows(self):
        bands = self.positions().view(self.height, self.width).split([h * n for h, n in self.rows])
        return [part.unflatten(0, (rows, height)).unflatten(2, (columns, width)).transpose(1, 2)
                .reshape(rows * columns, height * width)
                for band, (height, rows) in zip(bands, self.rows)
                for part, (width, columns) in zip(band.split([w * n for w, n in self.columns], 1), self.columns)]


def _attend_equal(attention, maps, height, rows, width, columns):
    """`attention` in windows of height x width, for maps (B, heads, rows * height, columns * width, d)."""
    batch, heads = maps[0].shape[:2]
    windows = [value.reshape(batch, heads, rows, height, columns, width, -1).permute(0, 2, 4, 1, 3, 5, 6)
               .reshape(batch * rows * columns, heads, height * width, -1) for value in maps]
    out = attention(*windows).reshape(batch, rows, columns, heads, height, width, -1).permute(0, 3, 1, 4, 2, 5, 6)
    return out.reshape(batch, heads, rows * height, columns * width, -1)


def _runs(length, side):
    """Cut `length` tokens into parts of at most `side`. Returns (size, count) pairs, larger parts first."""
    parts = -(-length // side)
    size, larger = divmod(length, parts)
    return [run for run in ((size + 1, larger), (size, parts - larger)) if run[1]]


def windows_of(window, height, width, device=None):
    """The windows of a map.

    Args:
        window: None, a side or ('balanced', side), from `parse_windows`.
        height, width: size of the map, in tokens.
        device: device of the index tensors.
    """
    if window is None:
        return WholeMap(height, width, device)
    if isinstance(window, tuple):
        return BalancedWindows(height, width, window[1], device)
    return FixedWindows(height, width, window, device)
