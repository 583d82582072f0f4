"""Use an exported detector as a model of mmdet."""
import math

import torch
import torch.nn.functional as F
from mmdet.models.detectors import MaskFormer
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

from .contract import UNSET
from .onnx import open_model


@MODELS.register_module()
class ExportedMaskFormer(MaskFormer):
    """Predict with an ONNX file of Mask2Former or MaskFormer, for any batch size. Training is not possible.

    Args:
        file: path of the ONNX file.
        fusion_head: config of the model's panoptic_fusion_head.
        test_cfg: test_cfg of the model.

    Raises:
        UserError: the file is of another model.
    """

    def __init__(self, file, fusion_head, test_cfg):
        BaseModel.__init__(self)  # mmengine's plain preprocessor, because the file normalizes and pads
        self.session, contract = open_model(file, 'panoptic')
        self.divisor = contract.size_divisor
        self.panoptic_fusion_head = MODELS.build({**fusion_head, 'test_cfg': test_cfg})

    def forward(self, inputs, data_samples, mode):
        """Data samples with pred_instances or pred_panoptic_seg. The arguments are the same as ExportedDetector's."""
        for image, sample in zip(inputs, data_samples):
            classes, masks = map(torch.from_numpy, self.session.run(None, to_rgb(image)))
            padded = [-(-side // self.divisor) * self.divisor for side in image.shape[1:]]
            masks = F.interpolate(masks[None], padded, mode='bilinear', align_corners=False)
            self.add_pred_to_datasample([sample], self.panoptic_fusion_head.predict(
                classes[None], masks, [sample], rescale=True))
        return data_samples


def to_rgb(image):
    """The inputs of a file for one image (3, H, W) in BGR."""
    return {'images': image[None, [2, 1, 0]].float().cpu().numpy()}


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """Predict with an exported file, for any batch size. Training is not possible.

    Args:
        file: path of FILE.onnx, or of FILE.xml in OpenVINO's format.

    Raises:
        UserError: the file is not a detector.
    """

    def __init__(self, file):
        super().__init__()  # mmengine's plain preprocessor, because the file normalizes and pads
        self.session, contract = open_model(file, 'detection')
        self.test_cfg = ConfigDict(mask_thr_binary=contract.mask_threshold)
        self.mask_stride = contract.mask_stride
        self.mask_head = FCNMaskHead(num_convs=0, class_agnostic=True)  # only to paste masks

    def forward(self, inputs, data_samples, mode):
        """Data samples with pred_instances, in pixels of the original images.

        Args:
            inputs: images as loaded and resized, each (3, H, W) in BGR.
            data_samples: data samples of the images.
            mode: always 'predict'.
        """
        for image, sample in zip(inputs, data_samples):
            dets, labels, *masks = self.session.run(None, to_rgb(image))
            there = labels >= 0
            found = InstanceData(bboxes=torch.from_numpy(dets[there, :4]), scores=torch.from_numpy(dets[there, 4]),
                                 labels=torch.from_numpy(labels[there]))
            if masks and self.mask_stride is not UNSET:
                found.masks = self.enlarge(torch.from_numpy(masks[0][there]), sample)
            if masks and self.mask_stride is UNSET:  # predict_by_feat scales the boxes, too
                found, = self.mask_head.predict_by_feat(
                    [masks[0][there][:, None]], [found], [sample.metainfo], self.test_cfg, rescale=True,
                    activate_map=True)
            else:
                found.bboxes /= found.bboxes.new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = found
        return data_samples

    def enlarge(self, logits, sample):
        """Masks (n, H, W) in the original image, from logits (n, h, w) of the padded image, as RTMDetInsHead's.

        mmdet multiplies the height by the horizontal factor and the width by the vertical one.
        """
        height, width = sample.ori_shape
        if not len(logits):
            return torch.zeros((0, height, width), dtype=torch.bool)
        logits = F.interpolate(logits[None], scale_factor=self.mask_stride, mode='bilinear')
        size = [math.ceil(side * (1 / factor)) for side, factor in zip(logits.shape[2:], sample.scale_factor)]
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)[0, :, :height, :width]
        return logits.sigmoid() > self.test_cfg.mask_thr_binary
