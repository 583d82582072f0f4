"""Checks of a config's data sets: their files, the channels of their images, and their classes."""
import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import UserError
from .configs import datasets_of


def check_data(cfg: Config, *loaders: str) -> None:
    """See that the files of the data loaders named, such as train_dataloader, are there, and read with as many channels
    as the backbone takes.

    Raises:
        UserError: naming the path, the keys that set it and where to read about the data.
    """
    model = cfg.get('model') or {}
    channels = (model.get('backbone') or {}).get('in_channels', 3)
    mean = (model.get('data_preprocessor') or {}).get('mean')
    if mean is not None and len(mean) not in (1, 3):
        raise UserError(f'model.data_preprocessor.mean has {len(mean)} values, and mmengine subtracts one or three: '
                        'leave out mean and std, and normalise images of other channels in the pipeline')
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        if str(dataset.get('type')).startswith('LVIS') and not find_spec('lvis'):
            raise UserError(f'{dataset.type} needs the package lvis, which is not installed: pip install lvis')
        grey = any(str(step.get('color_type', '')).startswith('gray') for step in dataset.get('pipeline', []))
        if grey and channels != 1:
            raise UserError(f"{key}.pipeline reads images with one channel (color_type='grayscale'), the backbone "
                            f'takes {channels}: leave color_type out, and grey images are read with theirs three '
                            'times, or set model.backbone.in_channels=1')
        prefixes = dataset.get('data_prefix') or {}  # mmpretrain's data sets have one of images alone
        prefixes = {'': prefixes} if isinstance(prefixes, str) else prefixes
        files = {'ann_file': dataset.get('ann_file') or dataset.get('split'),
                 **{f'data_prefix.{name}'.strip('.'): prefix for name, prefix in prefixes.items()}}
        for name, file in files.items():
            path = Path(dataset.get('data_root') or '', file or '')
            if file and '://' not in str(path) and not path.exists():
                raise UserError(f'data set not found: {path} does not exist; it is set by {key}.data_root and '
                                f'{key}.{name}. docs/reproduce.md says how to get the data and where it goes')


@HOOKS.register_module()
class CheckClasses(Hook):
    """Says which classes of a data set in COCO's format are in no category of its JSON: mmdet leaves them out."""

    def before_train(self, runner: Runner) -> None:
        self.check(runner.train_dataloader, runner.cfg, 'train_dataloader')

    def before_val(self, runner: Runner) -> None:
        self.check(runner.val_dataloader, runner.cfg, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        self.check(runner.test_dataloader, runner.cfg, 'test_dataloader')

    def check(self, loader: Any, cfg: Config, key: str) -> None:
        if any(len(dataset.cat_ids) < len(dataset.metainfo['classes']) for dataset in parts(loader.dataset)
               if hasattr(dataset, 'cat_ids')):
            check_classes(cfg, key)


def parts(dataset: Any) -> Iterator[Any]:
    """The data sets behind those that wrap them."""
    for part in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if part is None:
            yield dataset
        else:
            yield from parts(part)


def check_classes(cfg: Config, *loaders: str) -> None:
    """Warn of classes of data sets in COCO's format that are in no category of their JSONs.

    It reads the JSONs again, so it is for after something was seen to be wrong.

    Raises:
        UserError: no class is in a JSON; names those of the config and of the JSON.
    """
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        classes = (dataset.get('metainfo') or {}).get('classes')
        path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        if not classes or path.suffix != '.json' or not path.is_file():
            continue
        names = [category['name'] for category in json.loads(path.read_bytes())['categories']]
        missing = [name for name in classes if name not in names]
        sentence = (f"{key}.metainfo.classes is {', '.join(classes)}, and the categories of {path} are "
                    f"{', '.join(names)}")
        if len(missing) == len(classes):
            raise UserError(f'{sentence}: none is in both')
        if missing:
            print_log(f"{sentence}: without {', '.join(missing)} in the data, nothing is learnt or measured of them",
                      'current', logging.WARNING)
