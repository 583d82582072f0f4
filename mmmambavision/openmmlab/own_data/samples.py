"""A picture of the training data as the network sees it."""
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope

from ...errors import UserError

CELL = 560  # pixels of a sample in the picture, each way


def draw_samples(cfg, path, count=9):
    """Draw `count` samples of the training data, spread over it, with their annotations, as the pipeline of training
    gives them to the network.

    Args:
        cfg: the config.
        path: of the picture.

    Raises:
        UserError: they have another number of channels than the backbone takes.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    visualizer = VISUALIZERS.build(dict(type=cfg.visualizer.type, name='samples', alpha=0.5))
    visualizer.dataset_meta = dataset.metainfo
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    cells = [draw(visualizer, cfg, dataset[int(index)]) for index in indices]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % 3)
    rows = [np.concatenate(cells[i:i + 3], axis=1) for i in range(0, len(cells), 3)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows))


def draw(visualizer, cfg, sample):
    """One sample with its annotations, BGR (CELL, CELL, 3)."""
    image, channels = sample['inputs'].numpy().transpose(1, 2, 0), cfg.model.backbone.get('in_channels', 3)
    if image.shape[2] != channels:
        raise UserError(f'the pipeline of training gives images of {image.shape[2]} channels, and the backbone takes '
                        f'{channels}: set model.backbone.in_channels={image.shape[2]}, or have it read {channels}')
    if cfg.model.get('data_preprocessor', {}).get('bgr_to_rgb'):
        image = image[..., ::-1]
    annotated = sample['data_samples']
    if 'gt_instances' in annotated:
        boxes = annotated.gt_instances.bboxes
        annotated.gt_instances.bboxes = getattr(boxes, 'tensor', boxes)  # mmdet draws no boxes of its own class
    visualizer.add_datasample('sample', np.ascontiguousarray(image), annotated, draw_pred=False)
    drawn = visualizer.get_image()[..., ::-1]
    scale = (CELL - 8) / max(drawn.shape[:2])
    drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    height, width = drawn.shape[:2]
    top, left = (CELL - height) // 2, (CELL - width) // 2
    return cv2.copyMakeBorder(drawn, top, CELL - height - top, left, CELL - width - left, cv2.BORDER_CONSTANT,
                              value=(255, 255, 255))
