"""Build a detector or segmentor from a config and load its weights, for inference."""
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
from .configs import first_dataset


def load_model(cfg: Config, checkpoint: str | None, device: str | torch.device) -> Any:
    """Load a model in eval mode, with its config, classes and palette as attributes for the APIs of mmdet and mmseg.

    If a checkpoint has no class names, the classes are those of the config. The loaders of mmdet and mmseg would use
    the classes of COCO and Cityscapes.

    Args:
        cfg: the config.
        checkpoint: path, URL or hf:// name; None for random weights.
        device: device of the model.

    Raises:
        UserError: the checkpoint cannot be loaded, or is of another network.
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


def classes_in(checkpoint: dict[str, Any]) -> Sequence[str] | None:
    """Class names in a checkpoint from mmengine, or None."""
    meta = checkpoint.get('meta') or {}
    return (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')


def warn_of_other_classes(checkpoint: dict[str, Any], classes: Sequence[str] | None) -> None:
    """Warn if a checkpoint and a config have different class names or another class order.

    Args:
        checkpoint: the contents of the checkpoint, as mmengine loads them.
        classes: class names of the config, or None.
    """
    theirs = classes_in(checkpoint)
    if theirs and classes and tuple(theirs) != tuple(classes):
        number = next((i for i, pair in enumerate(zip(theirs, classes)) if pair[0] != pair[1]), None)
        first = f' (the first that differs is number {number})' if number is not None else ''
        print_log(f"the classes of the checkpoint and of the config differ in name or order{first}: "
                  f"{', '.join(theirs)} in the checkpoint, {', '.join(classes)} in the config", logger='current',
                  level=logging.WARNING)


def _meta_of_config(cfg: Config) -> dict[str, Any]:
    """Classes and palette of the config's test data set, without loading the data."""
    return DATASETS.build(dict(first_dataset(cfg.test_dataloader), lazy_init=True)).metainfo
