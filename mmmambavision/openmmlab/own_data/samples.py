"""Draw training samples as the network sees them."""
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope

from ...errors import UserError

CELL = 560  # width and height of a sample in the picture, in pixels


def draw_samples(cfg, path, count=9):
    """Draw evenly spaced samples of the training data after the training pipeline, with their annotations.

    Args:
        cfg: the config.
        path: path of the picture.
        count: number of samples.

    Raises:
        UserError: the samples do not have the number of channels that the backbone takes.
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
        raise UserError(f'the training pipeline gives images of {image.shape[2]} channels, but the backbone takes '
                        f'{channels}. Set model.backbone.in_channels={image.shape[2]}, or change the pipeline')
    if cfg.model.get('data_preprocessor', {}).get('bgr_to_rgb'):
        image = image[..., ::-1]
    if channels != 3:  # visualizers draw on three channels
        image = image[..., :3] if channels > 3 else image[..., :1].repeat(3, 2)
    annotated = sample['data_samples']
    if 'gt_instances' in annotated:
        boxes = annotated.gt_instances.bboxes
        annotated.gt_instances.bboxes = getattr(boxes, 'tensor', boxes)  # mmdet's visualizer needs a tensor
    visualizer.add_datasample('sample', np.ascontiguousarray(image), annotated, draw_pred=False)
    drawn = visualizer.get_image()[..., ::-1]
    scale = (CELL - 8) / max(drawn.shape[:2])
    drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    height, width = drawn.shape[:2]
    top, left = (CELL - height) // 2, (CELL - width) // 2
    return cv2.copyMakeBorder(drawn, top, CELL - height - top, left, CELL - width - left, cv2.BORDER_CONSTANT,
                              value=(255, 255, 255))
