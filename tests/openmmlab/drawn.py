"""A few images in the format of each data set that the recipes read, of 192x160 pixels with two squares in each."""
import json

import numpy as np
from mmdet.datasets import CocoDataset, LVISV1Dataset
from PIL import Image

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
    """The values of what is around the squares, of the first and of the second."""
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
