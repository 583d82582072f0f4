"""A detector or segmentor with its weights, for visualization."""
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS

from ..errors import UserError
from ..interpret.picture import Picture, read_pixels
from .configs import first_dataset
from .models import load_model


class Subject:
    """A detector or segmentor with its test pipeline.

    Args:
        cfg: the config.
        checkpoint: path, URL or hf:// name; None for random weights.
        device: device of the model.

    Raises:
        UserError: the checkpoint cannot be loaded, or is of another network.
    """

    def __init__(self, cfg, checkpoint, device):
        self.segments = cfg.get('default_scope') == 'mmseg'
        self.model, self.device = load_model(cfg, checkpoint, device), device
        steps = first_dataset(cfg.test_dataloader).pipeline
        self.pipeline = Compose([step for step in steps if 'LoadAnnotations' not in step['type']])

    @property
    def classes(self):
        """Class names by index."""
        return self.model.dataset_meta['classes']

    def untrained(self):
        """The backbone with random weights."""
        return MODELS.build(self.model.cfg.model.backbone).eval().to(self.device)

    def prepare(self, path):
        """Load a picture with the test pipeline and the model's preprocessor."""
        packed = self.pipeline(dict(img_path=str(path), img_id=0))
        data = self.model.data_preprocessor(pseudo_collate([packed]), False)
        sample, = data['data_samples']
        return Picture(str(path), read_pixels(path), data['inputs'], tuple(sample.img_shape[:2]), sample)

    def explain(self, picture, class_name=None, box=None):
        """A score of the model to explain, for example with Grad-CAM.

        Args:
            picture: a `Picture` from `prepare`.
            class_name: the class, or None for any class.
            box: for a detector, the rank of a box of this class by score, from 0; None for 0.

        Returns:
            A function from an image (1, 3, H, W) to the score, a description of the score, and the box
            (x1, y1, x2, y2) in pixels of the picture or None. The score of a detector is the score of the box. The
            score of a segmentor is the mean logit of a class over the pixels where it is predicted. The default class
            is the one with most pixels.

        Raises:
            UserError: the class or box does not exist, or the model does not find it on the picture.
        """
        if class_name is not None and class_name not in self.classes:
            raise UserError(f"no class '{class_name}': choose one of {', '.join(self.classes)}")
        wanted = None if class_name is None else self.classes.index(class_name)
        if not self.segments:
            return self._explain_box(picture, wanted, box or 0)
        if box is not None:
            raise UserError('a box can be explained only for a detector')
        return self._explain_area(picture, wanted)

    def _explain_box(self, picture, wanted, rank):
        if getattr(self.model, 'with_mask', False) and hasattr(self.model, 'roi_head'):
            self.model.roi_head.mask_head = None  # masks with gradients would need gigabytes of memory

        def predict(image):
            return self.model.predict(image, [picture.sample], rescale=False)[0].pred_instances

        with torch.no_grad():
            found = predict(picture.input)
        order = found.scores.argsort(descending=True)
        order = [i for i in order.tolist() if wanted in (None, found.labels[i].item())]
        if not 0 <= rank < len(order):
            of = '' if wanted is None else f' of class {self.classes[wanted]}'
            raise UserError(f'the detector has {len(order)} boxes{of} on {picture.name}, so box {rank} (counted from '
                            '0) does not exist')
        index = order[rank]
        scale = [p / f for p, f in zip(picture.pixels.shape[1::-1], picture.filled[::-1])] * 2
        corners = [corner * s for corner, s in zip(found.bboxes[index].tolist(), scale)]
        name = self.classes[found.labels[index]]
        return (lambda image: predict(image).scores[index]), f'{name}, score {found.scores[index]:.2f}', corners

    def _explain_area(self, picture, wanted):
        def logits(image):
            return self.model.encode_decode(image, [picture.sample.metainfo])[0]

        with torch.no_grad():
            predicted = logits(picture.input).argmax(0)
        number = predicted.flatten().mode().values.item() if wanted is None else wanted
        area = predicted == number
        if not area.any():
            raise UserError(f'the segmentor predicts no {self.classes[number]} on {picture.name}')
        return (lambda image: logits(image)[number][area].mean()), f'mean logit of {self.classes[number]}', None
