"""Check the data sets of a config: files, image channels and classes."""
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
    """Check that the files of data loaders (for example train_dataloader) exist, and that image channels fit the
    backbone.

    Raises:
        UserError: a check fails. For a missing file, the message names the path, its config keys and the guide.
    """
    model = cfg.get('model') or {}
    channels = (model.get('backbone') or {}).get('in_channels', 3)
    mean = (model.get('data_preprocessor') or {}).get('mean')
    if mean is not None and len(mean) not in (1, 3):
        raise UserError(f'model.data_preprocessor.mean has {len(mean)} values, but mmengine takes only one or three. '
                        'Remove mean and std, and normalise the images in the pipeline')
    settings = model.get('data_preprocessor') or {}
    if channels != 3 and (len(settings.get('mean') or ()) == 3 or settings.get('bgr_to_rgb')):
        raise UserError(f'model.data_preprocessor is for images with three channels, but the backbone takes {channels} '
                        '(in_channels). Set bgr_to_rgb=False there, and one value each for mean and std, or None')
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        if str(dataset.get('type')).startswith('LVIS') and not find_spec('lvis'):
            raise UserError(f'{dataset.type} needs the package lvis, which is not installed: pip install lvis')
        grey = any(str(step.get('color_type', '')).startswith('gray') for step in dataset.get('pipeline', []))
        if grey and channels != 1:
            raise UserError(f"{key}.pipeline reads images with one channel (color_type='grayscale'), but the backbone "
                            f'takes {channels}. Remove color_type to read grey images with three equal channels, or '
                            'set model.backbone.in_channels=1')
        prefixes = dataset.get('data_prefix') or {}  # a string in mmpretrain's data sets
        prefixes = {'': prefixes} if isinstance(prefixes, str) else prefixes
        files = {'ann_file': dataset.get('ann_file') or dataset.get('split'),
                 **{f'data_prefix.{name}'.strip('.'): prefix for name, prefix in prefixes.items()}}
        for name, file in files.items():
            path = Path(dataset.get('data_root') or '', file or '')
            if file and '://' not in str(path) and not path.exists():
                raise UserError(f'data set not found: {path} does not exist ({key}.data_root and {key}.{name} set this '
                                'path). See docs/reproduce.md for how to get the data and where to put it')


@HOOKS.register_module()
class CheckClasses(Hook):
    """Warn about classes that no category of a COCO json has, because mmdet silently drops them."""

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
    """Yield the data sets inside wrappers."""
    for part in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if part is None:
            yield dataset
        else:
            yield from parts(part)


def check_classes(cfg: Config, *loaders: str) -> None:
    """Warn about classes of COCO data sets that no category of the json has.

    This reads each json again, so call it only if classes are missing.

    Raises:
        UserError: a json has none of the classes. The message names the classes of the config and of the json.
    """
    for key, dataset in (found for loader in loaders
                         for found in datasets_of((cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset')):
        classes = (dataset.get('metainfo') or {}).get('classes')
        path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        if not classes or path.suffix != '.json' or not path.is_file():
            continue
        names = [category['name'] for category in json.loads(path.read_bytes())['categories']]
        missing = [name for name in classes if name not in names]
        sentence = (f"{key}.metainfo.classes is {', '.join(classes)}, but the categories of {path} are "
                    f"{', '.join(names)}")
        if len(missing) == len(classes):
            raise UserError(f'{sentence}. They have no name in common')
        if missing:
            print_log(f"{sentence}. The data has no {', '.join(missing)}, so these classes are neither trained nor "
                      'evaluated', 'current', logging.WARNING)
