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
    loaded = load_checkpoint(model, checkpoint, map_location='cpu') if checkpoint else {}
    own = model.state_dict()
    for name, value in loaded.get('state_dict', loaded).items():
        name = name.removeprefix('module.')
        if name in own and own[name].shape != value.shape:  # mmengine would leave random weights there and go on
            raise UserError(f'{checkpoint} is of another model: its {name} has the shape {tuple(value.shape)}, that of '
                            f'the config {tuple(own[name].shape)}; take the config that it was trained with')
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
