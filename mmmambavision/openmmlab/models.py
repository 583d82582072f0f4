"""A detector or segmentor of a config with its weights, for tools that look at images and train nothing."""
import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from ..errors import UserError


def load_model(cfg: Config, checkpoint: str | None, device: str | torch.device) -> Any:
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
    warn_of_other_classes(loaded, (_meta_of_config(cfg) if checkpoint else {}).get('classes'))
    return model.to(device).eval()


def warn_of_other_classes(checkpoint: dict[str, Any], classes: Sequence[str] | None) -> None:
    """Warn where a checkpoint was trained with classes of other names, or in another order, than a config's.

    Args:
        checkpoint: its contents, as mmengine gives them.
        classes: names of those of the config, or None.
    """
    meta = checkpoint.get('meta') or {}
    theirs = (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')
    if theirs and classes and tuple(theirs) != tuple(classes):
        number = next((i for i, pair in enumerate(zip(theirs, classes)) if pair[0] != pair[1]), None)
        first = f' (the first that differs is number {number})' if number is not None else ''
        print_log(f"the checkpoint was trained with other classes than the config's, or in another order{first}: "
                  f"{', '.join(theirs)} in the checkpoint, {', '.join(classes)} in the config", logger='current',
                  level=logging.WARNING)


def tested_on(cfg: Config) -> Any:
    """The data set that a config tests on, without what is wrapped around it."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset and its like
        dataset = dataset.dataset
    return dataset


def _meta_of_config(cfg: Config) -> dict[str, Any]:
    """Classes and palette of the config's test data, without reading it."""
    return DATASETS.build(dict(tested_on(cfg), lazy_init=True)).metainfo
