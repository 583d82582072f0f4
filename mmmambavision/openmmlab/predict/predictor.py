"""Predict on images in memory with a detector or segmentor, and draw the predictions."""
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import PixelData
from pycocotools import mask as coco_mask

from ..configs import first_dataset
from ..models import load_model
from .inputs import in_colour


class Predictor:
    """A model for mmdet's `inference_detector` or mmseg's `inference_model`.

    Args:
        cfg: the config.
        checkpoint: path, URL or hf:// name.
        device: device of the model.
        threshold: minimum score of a detector's boxes.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, threshold: float) -> None:
        self.segments = cfg.get('default_scope') == 'mmseg'
        if self.segments:
            from mmseg.apis import inference_model as infer
        else:
            from mmdet.apis import inference_detector as infer
        self.model, self.infer, self.threshold = load_model(cfg, checkpoint, device), infer, threshold
        steps = first_dataset(cfg.test_dataloader).get('pipeline') or []
        self.colour = next((step.get('color_type', 'color') for step in steps if 'LoadImage' in step['type']), 'color')
        self.classes = self.model.dataset_meta['classes']
        # Drawings are returned as arrays, so no backend has to write files.
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=f'predictor{id(self)}'))
        self.visualizer.dataset_meta = self.model.dataset_meta

    def __call__(self, image: np.ndarray[Any, Any]) -> Any:
        """Predict on an image in BGR, (H, W, 3) or as `colour` says. Returns the data sample with predictions."""
        sample = self.infer(self.model, image).cpu()
        if not self.segments:
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= self.threshold]
        return sample

    def draw(self, image: np.ndarray[Any, Any], sample: Any) -> np.ndarray[Any, Any]:
        """The image with its predictions drawn, (H, W, 3) in BGR."""
        options = {} if self.segments else dict(pred_score_thr=self.threshold)
        if self.segments:  # mmseg indexes with the map, and treats a one-pixel tensor as a number, so use an array
            sample = type(sample)(pred_sem_seg=PixelData(data=sample.pred_sem_seg.data.numpy()))
        state = np.random.get_state()
        np.random.seed(0)  # mmdet varies the colours within a class with NumPy's global generator
        try:
            self.visualizer.add_datasample('', in_colour(image)[..., ::-1], sample, draw_gt=False, show=False,
                                           **options)
        finally:
            np.random.set_state(state)
        return self.visualizer.get_image()[..., ::-1]

    def numbers(self, sample: Any) -> np.ndarray[Any, Any] | list[dict[str, Any]]:
        """A segmentor's label map (H, W), or a detector's annotations in COCO's format, without ids."""
        if self.segments:
            return sample.pred_sem_seg.data[0].numpy().astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        found = sample.pred_instances
        annotations = []
        for index, (corners, score, label) in enumerate(zip(
                found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist())):
            x1, y1, x2, y2 = corners
            annotation = dict(category_id=label + 1, bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                              score=score, iscrowd=0)
            if 'masks' in found:
                encoded = coco_mask.encode(np.asfortranarray(found.masks[index].numpy().astype(np.uint8)))
                annotation.update(segmentation=dict(size=encoded['size'], counts=encoded['counts'].decode()),
                                  area=int(coco_mask.area(encoded)))
            annotations.append(annotation)
        return annotations
