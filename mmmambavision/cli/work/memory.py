"""Print the memory of a training step and the largest batch for some GPUs."""
from dataclasses import astuple
from pathlib import Path

import torch
from mmengine.config import Config

from ...openmmlab.configs import load_config
from ...openmmlab.memory import estimate
from ...terminal import show
from ..arguments import settings_of

GIB = 2 ** 30
GPUS = (16, 24, 40, 80)  # GiB
RESERVED = 1.5  # GiB for CUDA's context, workspaces and fragmentation
COLUMNS = ('config', 'type', 'images', 'H x W', 'parameters', 'gradients', 'states', 'activations', 'peak GiB',
           *(f'batch in {gpu} GB' for gpu in GPUS))


def show_memory(args) -> None:
    """Print a table with the arguments of cli/memory.py."""
    show(COLUMNS, [row_of(path, args) for path in args.configs], args.markdown)


def row_of(path: str, args) -> list[str]:
    """The row of a config."""
    cfg = load_config(path, settings_of(args.cfg_options))
    if args.cp:
        cfg.model.backbone.with_cp = True
    size, batch = tuple(args.size or default_size(cfg)), args.batch or cfg.train_dataloader.batch_size
    # bfloat16 needs as much as float16.
    amp = args.amp or cfg.optim_wrapper.type == 'AmpOptimWrapper'
    few = max(batch, 2)  # batch norms on maps of 1x1 do not train on one image
    one, two = (astuple(estimate(cfg, count, size, torch.bfloat16 if amp else None, args.fsdp))
                for count in (few, 2 * few))
    per_image = [(b - a) / few for a, b in zip(one, two)]
    values = [a + slope * (batch - few) for a, slope in zip(one, per_image)]
    largest = [batch + ((gpu - RESERVED) * GIB - values[-1]) // per_image[-1] for gpu in GPUS]
    return [Path(path).stem, '16 bits' if amp else 'float32', str(batch), f'{size[0]}x{size[1]}',
            *(f'{value / GIB:.2f}' for value in values), *(str(max(0, int(count))) for count in largest)]


def default_size(cfg: Config) -> tuple[int, int]:
    """Height and width: the crop of a segmentor, or a detector's 800x1344."""
    crop = cfg.model.get('data_preprocessor', {}).get('size')
    return tuple(crop) if crop else (800, 1344)
