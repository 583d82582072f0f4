"""A detector or segmentor of a config with its weights, for tools that look at images and train nothing."""
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from ..errors import UserError


def load_model(cfg, checkpoint, device):
    """The model in eval mode, its config and its data's classes and palette on it, as mmdet's and mmseg's APIs want it.

    Those APIs' own loaders guess COCO's and Cityscapes' classes for a checkpoint that names none, such as a slim one;
    here they are then the config's.

    Args:
        cfg: the config.
        checkpoint: path, URL or hf:// name; None for random weights.
        device: where it runs.

    Raises:
        UserError: the checkpoint cannot be had, or is of another network.
    """
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        loaded = load_checkpoint(model, checkpoint, map_location='cpu', strict=True) if checkpoint else {}
    except UserError as error:
        raise UserError(f'{checkpoint}: {error}') from None
    model.cfg = cfg
    model.dataset_meta = (loaded.get('meta') or {}).get('dataset_meta') or _meta_of_config(cfg)
    return model.to(device).eval()


def tested_on(cfg):
    """The data set that a config tests on, without what is wrapped around it."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset and its like
        dataset = dataset.dataset
    return dataset


def _meta_of_config(cfg):
    """Classes and palette of the config's test data, without reading it."""
    return DATASETS.build(dict(tested_on(cfg), lazy_init=True)).metainfo
