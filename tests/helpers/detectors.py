"""Small detectors made from mmdet's configs and from recipes, trained for a few seconds on drawn squares."""
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.structures import InstanceData

from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.models import load_model

from .data import parts, recipe
from .nets import NANO

CLASSES = 4
WIDTHS = (16, 32, 64, 128)  # of NANO's maps
SMALLER = dict(feat_channels=32, stacked_convs=1, num_csp_blocks=1, num_classes=CLASSES)


def small_config(name: str, **options: object) -> Config:
    """The config of a recipe, or of mmdet ('atss/atss_r50_fpn_1x_coco'), with a nano backbone and narrow heads.

    Args:
        name: name of the config.
        options: other settings. Double underscores stand for dots.
    """
    cfg = Config(get_config(f'mmdet::{name}.py')._cfg_dict) if '/' in name else recipe(name)
    neck = cfg.model.neck[0] if isinstance(cfg.model.neck, list) else cfg.model.neck
    count = len(neck.in_channels)
    cfg.model.backbone = dict(type='MambaVision', arch=NANO, drop_path_rate=0., out_indices=range(4 - count, 4))
    for part in parts(cfg.model):
        part.update({key: SMALLER[key] for key in SMALLER.keys() & part.keys()})
        if isinstance(part.get('in_channels'), int):
            part['in_channels'] = 32
    if not hasattr(neck, 'norm_cfg'):  # the default in the heads is 32 groups
        cfg.model.bbox_head.norm_cfg = dict(type='GN', num_groups=8)
    neck.update(in_channels=list(WIDTHS[4 - count:]), out_channels=32)
    for part in parts(cfg.test_dataloader.dataset.pipeline):
        part.update({key: value for key, value in dict(scale=(160, 128), size=(160, 160)).items() if key in part})
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def small_query_config(name: str = 'dino_mambavision_t_1x', **options: object) -> Config:
    """The config of a detector with queries, with few layers and queries. Its 256 channels are fixed in mmdet."""
    cfg = Config(get_config(f'mmdet::{name}.py')._cfg_dict) if '/' in name else recipe(name)
    count = len(cfg.model.neck.in_channels)
    cfg.model.backbone = dict(type='MambaVision', arch=NANO, drop_path_rate=0., out_indices=range(4 - count, 4))
    cfg.model.neck.in_channels = list(WIDTHS[4 - count:])
    for part in parts(cfg.model):
        fewer = dict(num_layers=2, num_queries=30, feedforward_channels=64, num_classes=CLASSES, max_per_img=20)
        part.update({key: value for key, value in fewer.items() if key in part})
    for part in parts(cfg.test_dataloader.dataset.pipeline):
        part.update({key: value for key, value in dict(scale=(160, 128)).items() if key in part})
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def small_mask2former() -> Config:
    """Our recipe of Mask2Former on five classes, with few layers and queries."""
    cfg = recipe('mask2former_mambavision_t')
    cfg.model.backbone = dict(type='MambaVision', arch=NANO, drop_path_rate=0.)
    head = cfg.model.decode_head
    head.update(in_channels=list(WIDTHS), num_queries=10, num_classes=5)
    head.loss_cls.class_weight = [1.] * 5 + [.1]
    head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers = 1, 4
    for part in parts(head):
        if 'feedforward_channels' in part:
            part.feedforward_channels = 64
    cfg.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    return cfg


def small_maskformer(name: str) -> Config:
    """A config of mmdet's Mask2Former or MaskFormer with five classes, few layers and few queries."""
    cfg = Config(get_config(f'mmdet::{name}.py')._cfg_dict)
    cfg.model.backbone = dict(type='MambaVision', arch=NANO, drop_path_rate=0.)
    head, stuff = cfg.model.panoptic_head, 2 if cfg.model.panoptic_head.num_stuff_classes else 0
    for part in (head, cfg.model.panoptic_fusion_head):
        part.update(num_things_classes=5 - stuff, num_stuff_classes=stuff)
    head.update(in_channels=list(WIDTHS), num_queries=10)
    head.loss_cls.class_weight = [1.] * 5 + [.1]
    head.pixel_decoder.encoder.num_layers, head.transformer_decoder.num_layers = 1, 4
    for part in parts(head):
        if 'feedforward_channels' in part:
            part.feedforward_channels = 64
    cfg.model.test_cfg.update(max_per_image=20, object_mask_thr=.15, iou_thr=.1)
    if cfg.model.type == 'MaskFormer':  # with random weights, one query covers the image
        cfg.model.test_cfg.update(panoptic_on=False, instance_on=True)
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 128), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    return cfg


def squares(size: int, number: int) -> tuple[np.ndarray, InstanceData]:
    """An image (size, size, 3) in BGR with squares of one colour per class, and its boxes, labels and masks."""
    random = np.random.default_rng(number)
    image = random.integers(0, 60, (size, size, 3)).astype(np.uint8)
    boxes, masks, labels = [], [], []
    for label in random.integers(0, 3, 3):
        side = int(random.integers(size // 8, size // 3))
        x, y = random.integers(0, size - side, 2)
        image[y:y + side, x:x + side, label] = 230
        masks.append(np.zeros((size, size), np.uint8))
        masks[-1][y:y + side, x:x + side] = 1
        boxes.append([x, y, x + side, y + side])
        labels.append(label)
    found = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor(labels),
                         masks=BitmapMasks(masks, size, size))
    return image, found


def trained(cfg: Config, steps: int = 40, size: int = 128, seed: int = 0) -> torch.nn.Module:
    """The model of a config in eval mode, after a few training steps with batches of two images."""
    fit_to_machine(cfg)
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = load_model(cfg, None, 'cpu')
    model.init_weights()
    model.train()
    with_masks = model.with_mask or hasattr(model.bbox_head, 'mask_head')
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        drawn = [squares(size, 2 * step + index) for index in range(2)]
        if not with_masks:
            for _, found in drawn:
                del found.masks
        shape = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size),
                     batch_input_shape=(size, size), scale_factor=(1., 1.))
        samples = [DetDataSample(metainfo=shape, gt_instances=found) for _, found in drawn]
        images = [torch.from_numpy(image).permute(2, 0, 1) for image, _ in drawn]
        # without the preprocessor's augmentations in training
        data = model.data_preprocessor(dict(inputs=images, data_samples=samples), False)
        losses, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
        optimizer.zero_grad()
        losses.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.)
        optimizer.step()
    return model.eval()


def mmdets(model, image):
    """dets, labels and masks that mmdet predicts on an image (H, W, 3) in BGR.

    Masks are probabilities inside the boxes, or RTMDet-Ins' logits of the whole image.
    """
    size = image.shape[:2]
    sample = DetDataSample(metainfo=dict(
        img_shape=size, ori_shape=size, scale_factor=(1., 1.), batch_input_shape=size))
    data = model.data_preprocessor(
        dict(inputs=[torch.from_numpy(image.copy()).permute(2, 0, 1)], data_samples=[sample]), False)
    probabilities, own = [], getattr(getattr(model, 'bbox_head', None), '_mask_predict_by_feat_single', None)
    if own:
        model.bbox_head._mask_predict_by_feat_single = lambda *values: probabilities.append(own(*values)) or (
            probabilities[-1])
    if model.with_mask:
        heads = model.roi_head.mask_head
        last = heads[-1] if isinstance(heads, torch.nn.ModuleList) else heads
        paste = last.predict_by_feat

        def keep(mask_preds, results_list, activate_map=False, **options):
            values = torch.as_tensor(np.asarray(mask_preds[0]))
            chosen = values[range(len(values)), results_list[0].labels]
            probabilities.append((chosen if activate_map else chosen.sigmoid()).numpy())
            return paste(mask_preds, results_list, activate_map=activate_map, **options)

        last.predict_by_feat = keep
    with torch.no_grad():
        found = model.predict(data['inputs'], data['data_samples'])[0].pred_instances
    if own:
        del model.bbox_head._mask_predict_by_feat_single
    if model.with_mask:
        del last.predict_by_feat
    dets = torch.cat([found.bboxes, found.scores[:, None]], 1).numpy()
    masks = [probabilities[0] if probabilities else np.zeros((0, 28, 28), np.float32)] if model.with_mask else []
    return dets, found.labels.numpy(), *masks, *[values.numpy() for values in probabilities if own]


def as_input(image):
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32)
