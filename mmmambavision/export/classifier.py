"""mmpretrain's classifiers as a function of images."""
from torch import nn

from .parts import Preprocessor


class Classifier(nn.Module):
    """RGB images (B, 3, H, W), 0 to 255, to logits (B, classes).

    Args:
        model: a classifier of mmpretrain with its config as `cfg`.
    """
    outputs = ('logits',)
    any_batch = True

    def __init__(self, model):
        super().__init__()
        settings = model.cfg.model.get('data_preprocessor') or model.cfg.get('data_preprocessor') or {}
        self.preprocess = Preprocessor(settings, settings.get('pad_size_divisor'), settings.get('pad_value', 0))
        self.model = model

    def forward(self, images):
        model, x = self.model, self.preprocess(images)
        # An ImageClassifier's tensor mode returns features.
        return model.head(model.extract_feat(x)) if getattr(model, 'with_head', False) else model(x)
