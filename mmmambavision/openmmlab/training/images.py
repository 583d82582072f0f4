"""Files of a training set that cannot be read: named, and skipped where that is asked for."""
import logging
import os
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS

from ...errors import UserError, not_the_file
from ..configs import datasets_of

READERS = {'LoadImageFromFile': 'img_path', 'LoadAnnotations': 'seg_map_path'}


@TRANSFORMS.register_module()
class ReadWhole(BaseTransform):
    """A step of a pipeline that reads an image or a label map, and what is done where its file cannot be read.

    A JPEG or PNG that ends too early counts as one that cannot be read: OpenCV fills the missing part with grey.

    Args:
        step (dict): the step, `LoadImageFromFile` or `LoadAnnotations`.
        key (str): of the path in the results: `img_path` or `seg_map_path`; a sample without it has no such file.
        skip_broken (bool): warn of each file once and let the data set take another sample.
        ann_file (str): what lists the files.

    Raises:
        UserError: in `transform`, unless skip_broken: names the file, what lists it, and the option that skips it.
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
            raise UserError(f'{sentence}. Mend or replace it, or set skip_broken_images=True to train on other images '
                            'instead')
        number = zlib.crc32(str(path).encode()) % len(self.named)
        if not self.named[number]:
            self.named[number] = True
            # An error, because ranks other than the first log nothing less.
            print_log(f'{sentence}; another image is taken instead', 'current', logging.ERROR)
        return None

    def wanted_by(self, results):
        names = [f'image {results["img_id"]}'] if 'img_id' in results else []
        names += [f'of {self.ann_file}'] if self.ann_file else []
        return f' ({" ".join(names)})' if names else ''

    def __repr__(self):
        return f'{type(self).__name__}({self.step!r}, key={self.key!r}, skip_broken={self.skip_broken})'


@cache
def names_given():
    """Whether a file was named, by its path's checksum, in memory that this process and its workers share."""
    return torch.zeros(1 << 20, dtype=torch.bool).share_memory_()


def fault(path):
    """What is wrong with an image file, or None; of a file that is not on a disk, nothing is known."""
    if '://' in str(path):
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return error.strerror
    if not data:
        return 'it is empty'
    if pointer := not_the_file(data):
        return pointer
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is None:
        return too_short(path) or 'it is not an image'
    return too_short(path)


def too_short(path):
    """What tells that the end of a JPEG or PNG file is missing, or None."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    if data.startswith(b'\xff\xd8') and data.find(b'\xff\xd9', first_scan(data)) < 0:
        return 'the JPEG has no end, it was cut off'
    if data.startswith(b'\x89PNG') and b'IEND\xaeB`\x82' not in data:
        return 'the PNG has no end, it was cut off'
    return None


def ends_early(path):
    """As `too_short`, of files whose last bytes are not those of the format, and without reading the others whole."""
    with open(path, 'rb') as file:
        file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = file.read()
    return None if b'\xff\xd9' in tail or b'IEND\xaeB`\x82' in tail else too_short(path)


def first_scan(jpeg):
    """Where the first scan of a JPEG starts, past segments such as a thumbnail's, which has an end of its own."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2:at + 4], 'big')
    return at


def put_into(cfg):
    """Make the training pipelines of a config name files that they cannot read, and with its `skip_broken_images`
    take others instead."""
    pipelines = [hook.get('switch_pipeline') for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict)]
    pipelines = [(pipeline, None) for pipeline in pipelines if pipeline]  # what mmdet's hook trains with in the end
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
