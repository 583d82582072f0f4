"""The published COCO table next to our counts, for `speed.py --paper-table`."""
import copy
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from . import peers
from .complexity import build, run_heads
from .measure import count

CONFIG = Path(__file__).parents[3] / 'configs' / 'cascade_mask_rcnn_mambavision_t_wholemap.py'
COLUMNS = ('backbone', 'params M', 'published', 'FLOPs G', 'with attention', 'scan', 'published', 'off',
           'box AP', 'mask AP')


def measure(name, size=(800, 1280)):
    """Parameters in M and multiply-adds in G (layers, attention products, scans) of a detector with that backbone.

    Every box head processes 1000 proposals and every mask head 100 regions, as in the published counts.
    """
    detector, cfg = build(CONFIG)
    backbone = peers.build(name).to('meta')
    parts, features = count(backbone, torch.empty(1, 3, *size, device='meta'))
    neck = copy.deepcopy(cfg.model.neck)
    neck.in_channels = [feature.shape[1] for feature in features]
    with torch.device('meta'):
        detector.neck = type(detector.neck)(**{k: v for k, v in neck.items() if k != 'type'})
    heads, _ = count(run_heads, detector, features)
    detector.backbone = backbone
    return sum(p.numel() for p in detector.parameters()) / 1e6, [a + b for a, b in zip(parts, heads)]


def rows():
    """Rows of the table as text. Published counts exclude attention, except for DeiT."""
    for name in track(peers.PUBLISHED, 'counting', console=Console(stderr=True)):
        published_params, published_flops, box, mask = peers.PUBLISHED[name]
        params, (layers, attention, scan) = measure(name)
        compared = layers + attention if name == 'deit-s' else layers
        yield [name, f'{params:.1f}', str(published_params), f'{layers:.0f}', f'{layers + attention:.0f}',
               f'{scan:.1f}', str(published_flops), f'{compared / published_flops - 1:+.1%}', f'{box:.1f}',
               f'{mask:.1f}']
