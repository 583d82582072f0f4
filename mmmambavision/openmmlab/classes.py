"""Classes that a config names and that the annotations do not have."""
import json
import logging
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..errors import UserError
from .configs import datasets_of


@HOOKS.register_module()
class CheckClasses(Hook):
    """Says which classes of a data set in COCO's format are in no category of its JSON: mmdet leaves them out."""

    def before_train(self, runner):
        self.check(runner.train_dataloader, runner.cfg, 'train_dataloader')

    def before_val(self, runner):
        self.check(runner.val_dataloader, runner.cfg, 'val_dataloader')

    def before_test(self, runner):
        self.check(runner.test_dataloader, runner.cfg, 'test_dataloader')

    def check(self, loader, cfg, key):
        if any(len(dataset.cat_ids) < len(dataset.metainfo['classes']) for dataset in parts(loader.dataset)
               if hasattr(dataset, 'cat_ids')):
            check_classes(cfg, key)


def parts(dataset):
    """The data sets behind those that wrap them."""
    for part in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if part is None:
            yield dataset
        else:
            yield from parts(part)


def check_classes(cfg, *loaders):
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
