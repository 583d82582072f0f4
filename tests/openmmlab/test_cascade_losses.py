"""A small Cascade Mask R-CNN trained for some steps against the losses that it had with mmcv's compiled operators.

`MMCV=compiled make setup`, then `.venv-compiled/bin/python -m tests.openmmlab.test_cascade_losses` stored them.
"""
import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from ..helpers import seeded
from ..helpers.compare import GOLDEN
from ..helpers.process import ROOT

STORED = GOLDEN / 'cascade_losses.json'
STEPS, SIZE = 5, 128


def images(step, count=2):
    """Rectangles of four classes on noise, as a function of the step's number: inputs and their annotations."""
    generator = np.random.Generator(np.random.PCG64(step))
    inputs, samples = [], []
    for _ in range(count):
        image = generator.integers(0, 60, (3, SIZE, SIZE))
        boxes, masks = [], np.zeros((4, SIZE, SIZE), np.uint8)
        for label in range(4):
            x, y = generator.integers(0, SIZE - 50, 2)
            width, height = generator.integers(16, 50, 2)
            image[:, y:y + height, x:x + width] += 45 * (label + 1)
            masks[label, y:y + height, x:x + width] = 1
            boxes.append([x, y, x + width, y + height])
        boxes = torch.tensor(np.array(boxes), dtype=torch.get_default_dtype())
        truth = InstanceData(bboxes=boxes, labels=torch.arange(4), masks=BitmapMasks(masks, SIZE, SIZE))
        inputs.append(torch.from_numpy(image).to(torch.uint8))
        samples.append(DetDataSample(gt_instances=truth, metainfo=dict(
            img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1., 1.))))
    return dict(inputs=inputs, data_samples=samples)


def train(dtype):
    """The losses of every step, as a list of dicts, computed in a type that is torch's default one meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return take_steps(dtype)
    finally:
        torch.set_default_dtype(before)


def take_steps(dtype):
    cfg = Config.fromfile(ROOT / 'tools' / 'benchmarks' / 'peers_cascade.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = seeded.fill(MODELS.build(cfg.model)).to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    history = []
    for step in range(STEPS):
        torch.manual_seed(step)  # what the samplers draw
        data = model.data_preprocessor(images(step), training=True)
        data['inputs'] = data['inputs'].to(dtype)
        total, losses = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history


def test_losses_are_those_of_compiled_mmcv():
    """In float64, where how many threads add up does not decide which of two proposals is kept; the stored losses are
    those of float32."""
    stored, actual = json.loads(STORED.read_text()), train(torch.float64)
    assert actual[0] == pytest.approx(stored[0], rel=1e-3)
    for step in range(1, STEPS):
        assert actual[step]['loss'] == pytest.approx(stored[step]['loss'], rel=1e-2), step
    assert actual[-1]['loss'] < actual[0]['loss']


if __name__ == '__main__':
    STORED.write_text(json.dumps(train(torch.float32), indent=1) + '\n')
