"""A backbone or a whole model for `speed.py`: forward pass, training step and counts."""
import os
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # otherwise torch's profiler logs an error without a GPU

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.machine import fit_to_machine

from . import complexity, peers
from .measure import count


class Measured:
    """A model with random weights on random images.

    Args:
        name: a config file, or a backbone as in `names.parse`.
        batch: number of images.
        size: height and width of the images.
        device: for example 'cpu', 'cuda' or 'cuda:1'.
        compiled: whether to run through torch.compile.
        fused: whether to fold batch norms into the convolutions before them, for inference.
    """

    def __init__(self, name, batch, size, device, compiled=False, fused=False):
        self.name, self.size, self.device = name, size, torch.device(device)
        self.is_config = Path(name).is_file()
        self.model = (_from_config(name) if self.is_config else peers.build(name)).to(device)
        if fused:
            self.model = fuse_conv_bn(self.model)
        self.data = _batch(self.model, batch, size) if self.is_config else torch.randn(batch, 3, *size, device=device)
        self.optimizer = torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), lr=0.)
        # For a whole model, only the backbone, because the rest handles lists of boxes.
        if compiled and self.is_config:
            self.model.backbone.compile()
        elif compiled:
            self.model.compile()

    def counts(self):
        """Parameters in M and multiply-adds in G: layers, attention products, scans."""
        if self.is_config:
            row = complexity.measure(self.name, self.size)
            return dict(params=row['params'], layers=row['total'], attention=row['attention'], scan=row['scan'])
        parts, _ = count(peers.build(self.name).to('meta'), torch.empty(1, 3, *self.size, device='meta'))
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        return dict(params=parameters, **dict(zip(('layers', 'attention', 'scan'), parts)))

    def forward(self, amp=False):
        """Inference. A whole model runs the complete test_step. `amp` uses bfloat16 autocast."""
        self.model.eval()
        with torch.no_grad(), self._precision(amp):
            self.model.test_step(self.data) if self.is_config else self.model(self.data)
        self._finish()

    def train(self, amp=False):
        """Forward, backward and an AdamW step with learning rate 0."""
        self.model.train()
        self.optimizer.zero_grad()
        with self._precision(amp):
            if self.is_config:
                loss = self._loss()
            else:
                loss = sum(output.float().mean() for output in self.model(self.data))
        loss.backward()
        self.optimizer.step()
        self._finish()

    def _loss(self):
        try:
            losses = self.model(**self.model.data_preprocessor(self.data, True), mode='loss')
        except ValueError as error:
            if 'more than 1 value per channel' not in str(error):
                raise
            raise UserError(f'{self.name} has batch norms on 1x1 maps, which cannot train on one image: '
                            '--batch 2') from None
        return self.model.parse_losses(losses)[0]

    def peak_memory(self, call):
        """Peak of the bytes that a call allocates."""
        self.optimizer.zero_grad()
        if self.device.type == 'cuda':
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            return torch.cuda.max_memory_allocated(self.device) - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True,
                                    acc_events=True) as profile:
            call()
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
        now = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        return peak

    def _precision(self, amp):
        return torch.autocast(self.device.type, torch.bfloat16) if amp else nullcontext()

    def _finish(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def _from_config(path):
    cfg = Config.fromfile(path)
    cfg.launcher = 'none'
    fit_to_machine(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def _batch(model, batch, size):
    """Random images and ground truth in the format of a data loader."""
    if hasattr(model, 'decode_head'):
        from mmseg.structures import SegDataSample
        samples = []
        for _ in range(batch):
            labels = PixelData(data=torch.randint(model.decode_head.num_classes, (1, *size)))
            samples.append(SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=size, ori_shape=size)))
        return dict(inputs=[torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(batch)],
                    data_samples=samples)
    from mmdet.testing import demo_mm_inputs
    head = complexity.as_list(model.roi_head.bbox_head)[0] if hasattr(model, 'roi_head') else model.bbox_head
    return demo_mm_inputs(batch, [(3, *size)] * batch, [10] * batch, head.num_classes, with_mask=True)
