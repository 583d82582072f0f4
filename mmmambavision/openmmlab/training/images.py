"""Report unreadable files of a training set, or skip them on request."""
import logging
import zlib
from functools import cache
from pathlib import Path

import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS

from ...errors import UserError
from ..configs import datasets_of
from ..image_files import fault, too_short

READERS = {'LoadImageFromFile': 'img_path', 'LoadAnnotations': 'seg_map_path'}


@TRANSFORMS.register_module()
class ReadWhole(BaseTransform):
    """Wrap a pipeline step that reads an image or a label map, and report or skip unreadable files.

    A truncated JPEG or PNG counts as unreadable, because OpenCV fills the missing part with grey.

    Args:
        step (dict): the step, `LoadImageFromFile` or `LoadAnnotations`.
        key (str): key of the path in the results: `img_path` or `seg_map_path`. A sample can lack this key.
        skip_broken (bool): warn once per file and let the data set return another sample.
        ann_file (str): annotation file, for messages.

    Raises:
        UserError: from `transform`, if a file is unreadable and skip_broken is False. The message names the file, the
            annotation file and the option to skip it.
    """

    def __init__(self, step, key='img_path', skip_broken=False, ann_file=None):
        self.step = TRANSFORMS.build(step)
        self.key = key
        self.skip_broken = skip_broken
        self.ann_file = ann_file
        self.named = names_given() if skip_broken else None

    def transform(self, results):
        path = results.get(self.key)
        try:
            done = self.step(results)
        except Exception:
            reason = path and fault(path)
            if not reason:
                raise
        else:
            reason = done is not None and path and too_short(path)
            if not reason:
                return done
        sentence = f'{path} cannot be read: {reason}{self.wanted_by(results)}'
        if not self.skip_broken:
            raise UserError(f'{sentence}. Repair or replace it, or set skip_broken_images=True to skip it')
        number = zlib.crc32(str(path).encode()) % len(self.named)
        if not self.named[number]:
            self.named[number] = True
            # Level ERROR, because all ranks except the first log only errors.
            print_log(f'{sentence}; another image replaces it', 'current', logging.ERROR)
        return None

    def wanted_by(self, results):
        names = [f'image {results["img_id"]}'] if 'img_id' in results else []
        names += [f'of {self.ann_file}'] if self.ann_file else []
        return f' ({" ".join(names)})' if names else ''

    def __repr__(self):
        return f'{type(self).__name__}({self.step!r}, key={self.key!r}, skip_broken={self.skip_broken})'


@cache
def names_given():
    """Flags of reported files by path checksum, in memory shared with the data loader workers."""
    return torch.zeros(1 << 20, dtype=torch.bool).share_memory_()


def put_into(cfg):
    """Wrap the readers of a config's training pipelines in `ReadWhole`, with its `skip_broken_images` setting."""
    pipelines = [hook.get('switch_pipeline') for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict)]
    pipelines = [(pipeline, None) for pipeline in pipelines if pipeline]  # of mmdet's PipelineSwitchHook
    loader = cfg.get('train_dataloader') or {}
    for _, dataset in datasets_of(loader.get('dataset') or {}, ''):
        ann_file = dataset.get('ann_file')
        pipelines.append((dataset.get('pipeline') or [],
                          str(Path(dataset.get('data_root') or '', ann_file)) if ann_file else None))
    for pipeline, ann_file in pipelines:
        for index, step in enumerate(pipeline):
            name = str(step.get('type')).rpartition('.')[2]
            if name in READERS:
                pipeline[index] = dict(type='ReadWhole', step=step, key=READERS[name], ann_file=ann_file,
                                       skip_broken=bool(cfg.get('skip_broken_images')))
