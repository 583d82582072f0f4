"""docs/imagenet.md: the way for timm's scripts to know our models, with a short script in their place."""
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from .helpers.process import ROOT

pytest.importorskip('timm')
REGISTERED = re.search(r"^REGISTERED='(.*)'$", (ROOT / 'docs' / 'imagenet.md').read_text(), re.MULTILINE)[1]
SCRIPT = """
import argparse
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model
from timm.optim import create_optimizer_v2

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--data-dir')
    parser.add_argument('--model')
    args = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(args.model, num_classes=2, window_size=(None, None))
    data = resolve_data_config(dict(img_size=64), model=model)
    loader = create_loader(create_dataset('', args.data_dir), data['input_size'], 8, is_training=True, num_workers=1,
                           use_prefetcher=False, scale=(.9, 1.), color_jitter=0, mean=data['mean'], std=data['std'])
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3)
    for epoch in range(8):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    print('right', right)
"""


@pytest.mark.slow
def test_timm_scripts_train_our_models(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in (('blue', 0), ('red', 2)):
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 80, (64, 64, 3), np.uint8)
            image[..., colour] += 150
            cv2.imwrite(str(tmp_path / 'images' / name / f'{i}.png'), image)
    (tmp_path / 'train.py').write_text(SCRIPT)
    command = [sys.executable, '-W', 'ignore', '-c', REGISTERED, 'train.py', '--data-dir', 'images', '--model']
    done = subprocess.run([*command, 'mambavision_tiny'], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0 and done.stdout.split()[-2:] == ['right', '16'], done.stdout
