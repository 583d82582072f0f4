"""Use an exported segmentor as a model of mmseg."""
from types import SimpleNamespace

import torch
from mmengine.registry import MODELS
from mmseg.models import BaseSegmentor, EncoderDecoder

from .contract import UNSET
from .onnx import open_model


@MODELS.register_module()
class ExportedSegmentor(EncoderDecoder):
    """Predict with an exported file, on whole images or sliding windows. Training is not possible.

    Args:
        file: path of FILE.onnx, or of FILE.xml in OpenVINO's format.
        test_cfg: test_cfg of the model in the config.

    Raises:
        UserError: the file is not a segmentor.
    """

    def __init__(self, file, test_cfg):
        self.session, contract = open_model(file, 'segmentation')
        # mmseg pads windows with 0 after normalization. So subtract the mean here, and add it again before the file.
        mean, divisor = ([0.] * 3, None) if contract.mean is UNSET else (contract.mean, contract.size_divisor)
        BaseSegmentor.__init__(self, data_preprocessor=dict(
            type='SegDataPreProcessor', mean=mean, std=[1., 1., 1.], bgr_to_rgb=True,
            test_cfg=dict(size_divisor=divisor) if divisor else None))
        self.mean = torch.tensor(mean)[:, None, None]
        self.test_cfg, self.align_corners = test_cfg, contract.align_corners
        self.out_channels = self.session.get_outputs()[0].shape[1] or len(contract.classes)  # OpenVINO may not know it
        self.decode_head = SimpleNamespace(threshold=contract.binary_threshold)

    def encode_decode(self, inputs, batch_img_metas):
        """Logits (B, classes, H, W) of images (B, 3, H, W)."""
        logits, = self.session.run(None, {'images': (inputs.cpu() + self.mean).numpy()})
        return torch.from_numpy(logits).to(inputs.device)
