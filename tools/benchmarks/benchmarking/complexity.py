"""The counts of `complexity.py`."""
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console
from rich.progress import track

from mmmambavision.terminal import show

from .measure import count

PROPOSALS, REGIONS = 1000, 100
COLUMNS = dict(config='config', size='W x H', backbone_params='backbone M', params='all M', backbone='backbone G',
               backbone_attention='its attention G', total='all G', attention='attention G', scan='scan G')


def count_all(configs, size, markdown):
    """Print the table of the configs."""
    rows = [measure(path, size) for path in track(configs, 'counting', console=Console(stderr=True))]
    cells = [[f'{v:.2f}' if 'params' in k else f'{v:.1f}' if isinstance(v, float) else v for k, v in row.items()]
             for row in rows]
    show(list(COLUMNS.values()), cells, markdown)


def build(path):
    """A config's model in eval mode on the meta device, and the config."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        return MODELS.build(cfg.model).eval(), cfg


def run_heads(model, features):
    """All modules after the backbone in inference, on features or regions on the meta device."""
    if hasattr(model, 'forward_transformer') or hasattr(getattr(model, 'decode_head', None), 'transformer_decoder'):
        features = materialize(model, features)
    if hasattr(model, 'decode_head'):
        return model.decode_head(features, *[None] * hasattr(model.decode_head, 'transformer_decoder'))
    features = model.neck(features) if model.with_neck else features
    if hasattr(model, 'forward_transformer'):
        height, width = (8 * side for side in features[0].shape[2:])
        sample = DetDataSample(metainfo=dict(batch_input_shape=(height, width), img_shape=(height, width)))
        return model.bbox_head(**model.forward_transformer(features, [sample]))
    if not hasattr(model, 'roi_head'):
        return model.bbox_head(features)
    model.rpn_head(features)

    def regions(head, extractor, count):
        for one, source in zip(as_list(head), as_list(extractor)):
            size = source.roi_layers[0].output_size
            one(torch.empty(count, source.out_channels, *size, device='meta'))

    regions(model.roi_head.bbox_head, model.roi_head.bbox_roi_extractor, PROPOSALS)
    if model.roi_head.with_mask:
        regions(model.roi_head.mask_head, model.roi_head.mask_roi_extractor, REGIONS)


def materialize(model, features):
    """Replace a model and its features on the meta device by zeros, because some heads need map sizes as tensors."""
    model.to_empty(device='cpu')
    for tensor in model.state_dict().values():
        tensor.zero_()
    return [torch.zeros_like(map_, device='cpu') for map_ in features]


def as_list(module):
    return list(module) if isinstance(module, torch.nn.ModuleList) else [module]


def input_size(cfg, size):
    """The input size (H, W): the given size, or the crop of a segmentor, or 800x1280 for a detector as published."""
    crop = cfg.model.get('data_preprocessor', {}).get('size')
    return tuple(size) if size else tuple(crop) if crop else (800, 1280)


def measure(path, size=None):
    """Parameters (backbone, all) and multiply-adds in G as a dict of the table's columns."""
    model, cfg = build(path)
    height, width = input_size(cfg, size)
    backbone, features = count(model.backbone, torch.empty(1, 3, height, width, device='meta'))
    heads, _ = count(run_heads, model, features)
    parameters = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (model.backbone, model)]
    return dict(config=Path(path).stem, size=f'{width}x{height}', backbone_params=parameters[0], params=parameters[1],
                backbone=backbone[0], backbone_attention=backbone[1], total=backbone[0] + heads[0],
                attention=backbone[1] + heads[1], scan=backbone[2] + heads[2])
