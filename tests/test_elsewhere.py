"""The snippets of docs/elsewhere.md, and a training step of torchvision's detector."""
import re

import pytest
import torch

from .helpers.process import ROOT

PAGE = (ROOT / 'docs' / 'elsewhere.md').read_text()
SNIPPETS = dict(re.findall(r'## (.*?)\n.*?```python\n(.*?)```', PAGE, re.DOTALL))
NEEDS = {'timm': 'timm', "torchvision's Mask R-CNN": 'timm', "Hugging Face's UperNet": 'transformers',
         'segmentation_models_pytorch': 'segmentation_models_pytorch'}


def run(title):
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    names = {}
    exec(SNIPPETS[title], names)
    return names


def test_every_block_of_code_is_run():
    assert len(SNIPPETS) == PAGE.count('```python') > 0 and set(NEEDS) <= set(SNIPPETS)


@pytest.mark.parametrize('title', SNIPPETS)
def test_snippet(title):
    run(title)


@pytest.mark.slow
def test_torchvision_detector_trains():
    model = run("torchvision's Mask R-CNN")['model'].train()
    images = [torch.rand(3, 96, 128), torch.rand(3, 120, 90)]
    boxes = torch.tensor([[10., 10., 60., 70.], [30., 5., 80., 50.]])
    masks = torch.zeros(2, 96, 128, dtype=torch.uint8)
    masks[:, 20:40, 20:40] = 1
    targets = [dict(boxes=boxes, labels=torch.tensor([1, 2]), masks=masks),
               dict(boxes=boxes[:1], labels=torch.tensor([3]), masks=torch.ones(1, 120, 90, dtype=torch.uint8))]
    model.transform.min_size, model.transform.max_size = (96,), 160
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert set(losses) == {'loss_classifier', 'loss_box_reg', 'loss_mask', 'loss_objectness', 'loss_rpn_box_reg'}
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    with torch.no_grad():
        prediction = model.eval()(images[:1])[0]
    assert prediction['boxes'].shape[1] == 4 and prediction['masks'].shape[1:] == (1, 96, 128)
