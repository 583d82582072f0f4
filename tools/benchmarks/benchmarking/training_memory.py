"""The measurements of `training_memory.py`."""
import re
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmambavision.cli.arguments import settings_of
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.configs import load_config, replace_type
from mmmambavision.openmmlab.memory import Allocations, estimate
from mmmambavision.terminal import show

from .measure import describe

GIB = 2 ** 30
COLUMNS = ('config', 'type', 'images', 'H x W', 'estimate GiB', 'tensors GiB', 'estimate / tensors', 'process GiB',
           's/step')


def measure(args):
    """Train with the arguments of training_memory.py and print a row.

    Raises:
        UserError: the config is not of a segmentor.
    """
    cfg = load_config(args.config, settings_of(args.cfg_options))
    if 'decode_head' not in cfg.model:
        raise UserError(f'{args.config} is not the config of a segmentor')
    if args.cp:
        cfg.model.backbone.with_cp = True
    replace_type(cfg.model, 'SyncBN', 'BN')
    print(describe('cpu'))
    tensors, seconds = train(cfg, args)
    process = peak_of_process()
    dtype = torch.bfloat16 if args.amp else None
    estimated = estimate(cfg, args.batch, tuple(args.size), dtype, on_gpu=False).peak
    show(COLUMNS, [[Path(args.config).stem, 'bfloat16' if args.amp else 'float32', str(args.batch),
                    '{}x{}'.format(*args.size), *(f'{value / GIB:.2f}' for value in (estimated, tensors)),
                    f'{estimated / tensors:.2f}', f'{process / GIB:.2f}', f'{seconds:.1f}']], args.markdown)


def train(cfg, args):
    """Bytes of the tensors at the peak, and seconds of the last step."""
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    with Allocations() as allocated:
        model = MODELS.build(cfg.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=False)
        images, samples = torch.randn(args.batch, 3, *args.size), []
        for _ in range(args.batch):
            samples.append(SegDataSample(metainfo=dict(img_shape=tuple(args.size))))
            samples[-1].gt_sem_seg = PixelData(data=torch.randint(0, model.num_classes, (1, *args.size)))
        for step in range(args.steps):
            start = time.perf_counter()
            with torch.autocast('cpu', torch.bfloat16) if args.amp else nullcontext():
                loss = model.parse_losses(model(images, samples, mode='loss'))[0]
            print(f'step {step + 1}: loss {loss:.4f}, forward {time.perf_counter() - start:.0f} s', flush=True)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - start
    return allocated.peak, seconds


def peak_of_process():
    """Maximum resident memory of this process in bytes (Linux)."""
    return 1024 * int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text()).group(1))
