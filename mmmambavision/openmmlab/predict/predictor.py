"""Predict on images in memory with a detector or segmentor, and draw the predictions."""
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import PixelData
from pycocotools import mask as coco_mask

from ...errors import UserError
from ..configs import first_dataset
from ..models import load_model
from .inputs import in_colour
from .slices import draw_slices, import_supervision, predict_slices


class Predictor:
    """A model for mmdet's `inference_detector` or mmseg's `inference_model`.

    Args:
        cfg: the config.
        checkpoint: path, URL or hf:// name.
        device: device of the model.
        threshold: minimum score of a detector's boxes.
        slice_size: height and width of the slices of larger images in pixels, for detectors. 0: no slices.
        overlap: of neighbouring slices, as a fraction of their size.

    Raises:
        UserError: the model is a segmentor and has slices, or supervision is not installed.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, threshold: float, slice_size: int = 0,
                 overlap: float = .2) -> None:
        self.segments = cfg.get('default_scope') == 'mmseg'
        self.slice_size, self.overlap = slice_size, overlap
        if slice_size:
            if self.segments:
                raise UserError("slices are for detectors. mmseg slices an image itself and averages the logits: set "
                                "mode='slide', crop_size and stride in model.test_cfg", 'slide')
            import_supervision()
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
        if self._is_sliced(image):
            return predict_slices(self._predict, image, self.slice_size, self.overlap)
        return self._predict(image)

    def _is_sliced(self, image: np.ndarray[Any, Any]) -> bool:
        return 0 < self.slice_size < max(image.shape[:2])

    def _predict(self, image: np.ndarray[Any, Any]) -> Any:
        sample = self.infer(self.model, image).cpu()
        if not self.segments:
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= self.threshold]
        return sample

    def draw(self, image: np.ndarray[Any, Any], sample: Any) -> np.ndarray[Any, Any]:
        """The image with its predictions drawn, (H, W, 3) in BGR."""
        if self._is_sliced(image):
            return draw_slices(in_colour(image), sample, self.classes)
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
                encoded = coco_mask.encode(np.asfortranarray(found.masks[index], np.uint8))
                annotation.update(segmentation=dict(size=encoded['size'], counts=encoded['counts'].decode()),
                                  area=int(coco_mask.area(encoded)))
            annotations.append(annotation)
        return annotations
