"""One training run of `ablation.py` with its evaluation."""
import copy
import math
import statistics
import time

import torch
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner, ValLoop
from mmseg.evaluation import IoUMetric

from mmmambavision import MambaVision
from mmmambavision.models.arguments import parse_windows
from mmmambavision.openmmlab.machine import fit_to_machine

from .measure import count


@METRICS.register_module()
class ClassIoU(IoUMetric):
    """IoU of each class in per cent, by class name."""
    default_prefix = 'IoU'

    def compute_metrics(self, results):
        intersection, union = (sum(areas) for areas in list(zip(*results))[:2])
        return dict(zip(self.dataset_meta['classes'], (100 * intersection / union).tolist()))


class Advance(Hook):
    """Call a function after every iteration."""

    def __init__(self, advance):
        self.advance = advance

    def after_train_iter(self, *_, **__):
        self.advance()


def parameters(arch):
    """Number of parameters of a backbone."""
    return sum(p.numel() for p in MambaVision(arch).parameters())


def train_and_evaluate(cfg, backbone, seed, windows, work_dir, advance):
    """Train a segmentor and evaluate it.

    Args:
        cfg: config of the segmentor. It is not changed.
        backbone: arguments of the backbone that replace the config's.
        seed: random seed of the weights and of the order of images.
        windows: windows by name. The network is evaluated with all of them, at the training size and at twice this
            size. None: one evaluation with the training windows.
        work_dir: folder for mmengine's logs.
        advance: called after every iteration.

    Returns:
        dict of params (M) and flops (multiply-adds, G) of the backbone, seconds, and evaluations: dicts of window,
        scale, and the mean IoU (%) of plain classes and of context-dependent classes.
    """
    begin = time.perf_counter()
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.update(copy.deepcopy(backbone))
    cfg.randomness = dict(seed=seed)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.name}_{time.time_ns()}'
    fit_to_machine(cfg)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Advance(advance))
    runner.train()
    evaluations = []
    network = runner.model.backbone
    for window, sides in (windows or {None: cfg.model.backbone.window_size}).items():
        for level, side in zip(network.levels[2:], parse_windows(sides)):
            level.window = side
        for scale in (1, 2) if windows else (1,):
            evaluations.append(dict(window=window, scale=scale, **evaluate(runner, cfg, scale)))
    size = (1, 3, *[cfg.shapes.size] * 2)
    with torch.device('meta'):
        counted, _ = count(MambaVision(**backbone).eval(), torch.empty(size))
    return dict(params=sum(p.numel() for p in network.parameters()) / 1e6, flops=sum(counted),
                seconds=time.perf_counter() - begin, evaluations=evaluations)


def evaluate(runner, cfg, scale):
    """Mean IoU (%) of plain classes and of context-dependent classes, on images enlarged by `scale`."""
    loader = copy.deepcopy(cfg.val_dataloader)
    loader.dataset.pipeline.insert(1, dict(type='Resize', scale_factor=float(scale), keep_ratio=True))
    found = ValLoop(runner, loader, dict(type='ClassIoU')).run()
    shapes = {name: iou for name, iou in found.items() if not name.endswith('background')}
    return dict(plain=mean(iou for name, iou in shapes.items() if '(' not in name),
                context=mean(iou for name, iou in shapes.items() if '(' in name))


def mean(values):
    """Mean without NaN. A class that is neither in the images nor predicted has no IoU."""
    values = [value for value in values if not math.isnan(value)]
    return statistics.mean(values) if values else math.nan
