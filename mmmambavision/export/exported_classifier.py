"""Use an exported classifier as a model of mmpretrain."""
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmpretrain.models.utils import ClsDataPreprocessor

from .onnx import open_model


@MODELS.register_module()
class ExportedClassifier(BaseModel):
    """Predict with an ONNX file, for any batch size. Training is not possible.

    Args:
        file: path of the ONNX file.

    Raises:
        UserError: the file is not a classifier.
    """

    def __init__(self, file):
        super().__init__(ClsDataPreprocessor(to_rgb=True))  # the file normalizes and pads
        self.session, _ = open_model(file, 'classification')

    def forward(self, inputs, data_samples, mode):
        """Data samples with pred_score (classes,) and pred_label.

        Args:
            inputs: images (B, 3, H, W) in RGB, 0 to 255.
            data_samples: data samples of the images.
            mode: always 'predict'.
        """
        logits, = self.session.run(None, {'images': inputs.cpu().numpy()})
        for sample, scores in zip(data_samples, torch.from_numpy(logits).softmax(-1)):
            sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))
        return data_samples
