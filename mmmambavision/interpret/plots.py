"""Figures of maps: image, map and overlay."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

COLOURS = 'inferno'
GROUPS = 16  # channel groups in the panel of half-lives


def draw(pixels: np.ndarray[Any, Any], maps: Mapping[str, np.ndarray[Any, Any]], gamma: float = 1.,
         point: Sequence[float] | None = None, circle: Mapping[str, Sequence[float]] | None = None,
         box: Sequence[float] | None = None, half_lives: np.ndarray[Any, Any] | None = None) -> Figure:
    """A row of image, map and overlay for each map.

    Args:
        pixels: the image (H, W, 3), uint8.
        maps: maps (H, W) by title.
        gamma: exponent of the colour scale.
        point: x, y of a marker.
        circle: x, y and radius of a circle, by title of the map.
        box: x1, y1, x2, y2 of a box.
        half_lives: (channels, states), in tokens, for an additional panel.

    Returns:
        The matplotlib figure.
    """
    columns = 3 + (half_lives is not None)
    height = 3.4 * min(max(pixels.shape[0] / pixels.shape[1], .4 if half_lives is None else .7), 2.5) + .4
    figure = Figure(figsize=(3.8 * columns, height * len(maps)), layout='constrained')
    for axes, (title, values) in zip(figure.subplots(len(maps), columns, squeeze=False), maps.items()):
        low = values.min()
        norm = PowerNorm(gamma, low, max(values.max(), low + 1e-12))
        axes[0].imshow(pixels)
        shown = axes[1].imshow(values, cmap=COLOURS, norm=norm)
        axes[1].set_title(title, fontsize=10)
        figure.colorbar(shown, ax=axes[1], fraction=.046, pad=.02).ax.tick_params(labelsize=7)
        axes[2].imshow(overlay(pixels, norm(values).clip(0, 1)))
        for panel in axes[:3]:
            panel.set_axis_off()
            _mark(panel, point, (circle or {}).get(title), box)
        if half_lives is not None:
            _draw_half_lives(figure, axes[3], half_lives)
    return figure


def overlay(pixels: np.ndarray[Any, Any], strength: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Blend grey pixels (H, W, 3, uint8) with colours by strength (H, W, 0 to 1). Returns (H, W, 3), 0 to 1."""
    grey = .9 * pixels.mean(-1, keepdims=True) / 255
    opacity = .8 * strength[..., None]
    return (1 - opacity) * grey + opacity * colormaps[COLOURS](strength)[..., :3]


def _mark(panel: Any, point: Sequence[float] | None, circle: Sequence[float] | None,
          box: Sequence[float] | None) -> None:
    if point is not None:
        panel.plot(*point, marker='+', markersize=12, markeredgewidth=2, color='cyan')
    if circle is not None:
        panel.add_patch(Circle((circle[0], circle[1]), circle[2], fill=False, color='cyan', lw=1.5))
    if box is not None:
        panel.add_patch(Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, color='cyan', lw=1.5))


def _draw_half_lives(figure: Figure, axes: Any, half_lives: np.ndarray[Any, Any]) -> None:
    """Geometric means over groups of channels, sorted from the shortest to the longest half-life."""
    ordered = np.log(half_lives[np.log(half_lives).mean(1).argsort()])
    groups = np.exp([group.mean(0) for group in np.array_split(ordered, min(GROUPS, len(ordered)))])
    shown = axes.imshow(groups, norm=LogNorm(), cmap='viridis', aspect='auto')
    axes.set(xlabel='state', ylabel='group of channels', xticks=range(groups.shape[1]), yticks=[])
    axes.set_title('half-life in tokens', fontsize=10)
    bar = figure.colorbar(shown, ax=axes, fraction=.046, pad=.02, format='%.2g')
    bar.ax.yaxis.set_minor_formatter('{x:.2g}')
    bar.ax.tick_params(which='both', labelsize=7)
