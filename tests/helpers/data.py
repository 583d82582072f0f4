"""Images drawn in the formats of data sets, and configs of small models that train on them."""
import json

import numpy as np
from mmdet.datasets import CocoDataset, LVISV1Dataset
from mmengine.config import Config
from PIL import Image

from .process import ROOT

# A few images of 192x160 pixels with two squares in each, in the format of each data set that the recipes read.

WIDTH, HEIGHT, SIDE = 192, 160, 40
TRAIN, VAL = range(1, 5), range(5, 7)


def corners(number):
    """(x, y) of both squares of an image."""
    return (10 + 3 * number, 20), (120 - 4 * number, 100)


def picture(number):
    image = np.full((HEIGHT, WIDTH, 3), 30 * number, np.uint8)
    for index, (x, y) in enumerate(corners(number)):
        image[y:y + SIDE, x:x + SIDE, index] = 250
    return Image.fromarray(image)


def label_map(number, values=(0, 1, 2)):
    """A label map. `values` are the labels of the background, the first square and the second square."""
    labels = np.full((HEIGHT, WIDTH), values[0], np.uint8)
    for (x, y), value in zip(corners(number), values[1:]):
        labels[y:y + SIDE, x:x + SIDE] = value
    labels[:4] = 255
    return Image.fromarray(labels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def coco(root, names=('instances_train2017', 'instances_val2017'), kind=CocoDataset, **of_image):
    """COCO's layout; with other names, LVIS's classes and more of each image LVIS's."""
    for name, folder, numbers in zip(names, ('train2017', 'val2017'), (TRAIN, VAL)):
        images, annotations = [], []
        for number in numbers:
            file = f'{folder}/{number:012}.jpg'
            save(picture(number), root / file)
            images.append(dict(
                id=number, file_name=file.split('/')[1], width=WIDTH, height=HEIGHT,
                coco_url=f'http://images.cocodataset.org/{file}', **of_image))
            for index, (x, y) in enumerate(corners(number)):
                right, bottom = x + SIDE, y + SIDE
                annotations.append(dict(
                    id=2 * number + index, image_id=number, category_id=index + 1, bbox=[x, y, SIDE, SIDE],
                    area=SIDE ** 2, iscrowd=0, segmentation=[[x, y, right, y, right, bottom, x, bottom]]))
        path = root / 'annotations' / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(
            images=images, annotations=annotations,
            categories=[dict(id=i, name=name, frequency='f') for i, name in enumerate(kind.METAINFO['classes'], 1)])))


def lvis(root):
    coco(root, ('lvis_v1_train', 'lvis_v1_val'), LVISV1Dataset, neg_category_ids=[3], not_exhaustive_category_ids=[])


def cityscapes(root):
    for split, numbers in (('train', TRAIN), ('val', VAL)):
        for number in numbers:
            name = f'{split}/ulm/ulm_{number:06}_000019'
            save(picture(number), root / f'leftImg8bit/{name}_leftImg8bit.png')
            save(label_map(number, (0, 13, 18)), root / f'gtFine/{name}_gtFine_labelTrainIds.png')


def voc(root):
    """Two images in SegmentationClass and two in SegmentationClassAug to train on."""
    lists = dict(train=TRAIN[:2], aug=TRAIN[2:], val=VAL)
    for split, numbers in lists.items():
        for number in numbers:
            save(picture(number), root / f'JPEGImages/2007_{number:06}.jpg')
            folder = 'SegmentationClassAug' if split == 'aug' else 'SegmentationClass'
            save(label_map(number, (0, 5, 20)), root / f'{folder}/2007_{number:06}.png')
        path = root / f'ImageSets/Segmentation/{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(f'2007_{number:06}\n' for number in numbers))


def ade20k(root):
    for split, numbers in (('training', TRAIN), ('validation', VAL)):
        for number in numbers:
            save(picture(number), root / f'images/{split}/{number}.jpg')
            save(label_map(number, (1, 50, 150)), root / f'annotations/{split}/{number}.png')


def dota(root):
    """Corners of boxes in text files; the first square is turned by 45 degrees."""
    for number in TRAIN:
        save(picture(number), root / f'trainval/images/P{number}.png')
        (x, y), (u, v) = corners(number)
        half, side = SIDE // 2, SIDE
        lines = [(x + half, y, x + side, y + half, x + half, y + side, x, y + half, 'plane', 0),
                 (u, v, u + side, v, u + side, v + side, u, v + side, 'ship', 0)]
        path = root / f'trainval/annfiles/P{number}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(' '.join(map(str, line)) + '\n' for line in lines))


# Data of users.

def coco_contents(count=4, classes=('cat', 'dog'), size=(64, 48), **more):
    """Contents of a COCO json: `count` images with two boxes of 10x20, one for each of the first two classes."""
    images = [dict(id=i, file_name=f'{i}.png', width=size[0], height=size[1]) for i in range(1, count + 1)]
    annotations = [dict(id=2 * i + k + 1, image_id=i + 1, category_id=k + 1, bbox=[5 + 20 * k, 5, 10, 20], area=200,
                        iscrowd=0, segmentation=[[5 + 20 * k, 5, 15 + 20 * k, 5, 15 + 20 * k, 25, 5 + 20 * k, 25]])
                   for i in range(count) for k in range(2)]
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories) | more


def write_split(folder, contents, json_name, images):
    """Write a json, and an image for each of its entries to the folder `images`."""
    path = folder / json_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    for image in contents['images']:
        file = folder / images / image['file_name']
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((image['height'], image['width'], 3), 99, np.uint8)).save(file)


def write_both(folder, train=None, val=None):
    write_split(folder, train or coco_contents(), 'annotations/instances_train.json', 'train')
    write_split(folder, val or coco_contents(2), 'annotations/instances_val.json', 'val')
    return folder


def write_label_maps(folder, values=(0, 1, 2), size=(48, 64), splits=('train', 'val')):
    """Write images and label maps with bands of the given values."""
    for split in splits:
        for name in 'ab':
            for kind, shape in (('images', (*size, 3)), ('labels', size)):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                array = np.full(shape, 90, np.uint8)
                if kind == 'labels':
                    for band, value in zip(np.array_split(array, len(values)), values):
                        band[:] = value
                Image.fromarray(array).save(folder / kind / split / f'{name}.png')
    return folder


# Configs.

DETECTOR = 'configs/cascade_mask_rcnn_mambavision_demo.py'
SEGMENTOR = 'configs/upernet_mambavision_demo.py'


def recipe(name):
    """The config of configs/{name}.py."""
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def parts(node):
    """All dicts of a nested config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from parts(part)


def load(path, **options):
    """The config with other settings. Double underscores in option names stand for dots."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def data_options(shapes):
    """Command options to train the demo detector for one epoch on the data of the fixture `shapes`."""
    root = f'{shapes}/coco/'
    return [f'{loader}_dataloader.dataset.data_root={root}' for loader in ('train', 'val', 'test')] + [
        f'{split}_evaluator.ann_file={root}annotations/instances_val2017.json' for split in ('val', 'test')
    ] + ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1',
         'default_hooks.logger.interval=1']


TINY_SEGMENTOR = """
_base_ = '{root}/configs/_base_/segmentation_runtime.py'
custom_imports = dict(imports=['mmmambavision.openmmlab'], allow_failed_imports=False)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32, pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='MambaVision', arch=dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4)),
        drop_path_rate=0.),
    decode_head=dict(
        type='FCNHead', in_channels=128, in_index=3, channels=8, num_convs=1, num_classes=150,
        norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
train_dataloader = dict(
    batch_size=2, num_workers=1, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset', data_root='{data}',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomCrop', crop_size=(64, 64)), dict(type='PackSegInputs')]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters={iterations}, val_interval=10**6)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), sampler_seed=dict(type='DistSamplerSeedHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval={every}, max_keep_ckpts=10))
randomness = dict(seed=0)
"""


def tiny_segmentor(folder, iterations=4, every=100):
    """Draw four images in `folder`; returns the path of a config that trains on them in seconds."""
    ade20k(folder / 'data')
    config = folder / 'tiny.py'
    config.write_text(TINY_SEGMENTOR.format(root=ROOT, data=folder / 'data', iterations=iterations, every=every))
    return config


SMALL_DETECTOR = """
_base_ = '{root}/configs/cascade_mask_rcnn_mambavision_demo.py'
model = dict(
    backbone=dict(arch=dict(dim=16, in_dim=8, num_heads=(1, 2, 2, 4)), drop_path_rate=.5),
    neck=dict(in_channels=[32, 64, 128]))
metainfo = dict(classes=('person', 'bicycle', 'car', 'motorcycle'))
dataset = dict(data_root='{data}/', metainfo=metainfo)
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(**dataset, pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(64, 64), (96, 96)], keep_ratio=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=.5),
    dict(type='PackDetInputs')]))
val_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(**dataset))
val_evaluator = dict(ann_file='{data}/annotations/instances_val2017.json')
train_cfg = dict(max_epochs=3, val_interval=100, val_begin=100)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=1))
custom_imports = dict(imports=['mmmambavision.openmmlab', 'tests.helpers.hooks'], allow_failed_imports=False)
randomness = dict(seed=3)
"""


def small_detector(folder):
    """Draw four images in `folder` and return the path of a config that trains on them for 3 epochs of 4 iterations.

    The config uses all kinds of randomness of detectors.
    """
    coco(folder / 'data')
    path = folder / 'detector.py'
    path.write_text(SMALL_DETECTOR.format(root=ROOT, data=folder / 'data'))
    return path
