import json

import numpy as np
import pytest
from PIL import Image


def coco(count=4, classes=('cat', 'dog'), size=(64, 48), **more):
    """Contents of a COCO json: `count` images, in each two boxes of 10x20, one of each of the first two classes."""
    images = [dict(id=i, file_name=f'{i}.png', width=size[0], height=size[1]) for i in range(1, count + 1)]
    annotations = [dict(id=2 * i + k + 1, image_id=i + 1, category_id=k + 1, bbox=[5 + 20 * k, 5, 10, 20], area=200,
                        iscrowd=0, segmentation=[[5 + 20 * k, 5, 15 + 20 * k, 5, 15 + 20 * k, 25, 5 + 20 * k, 25]])
                   for i in range(count) for k in range(2)]
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories) | more


def write(folder, contents, json_name, images):
    """A json, and an image for each of its entries in the folder `images`."""
    path = folder / json_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    for image in contents['images']:
        file = folder / images / image['file_name']
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((image['height'], image['width'], 3), 99, np.uint8)).save(file)


def write_both(folder, train=None, val=None):
    write(folder, train or coco(), 'annotations/instances_train.json', 'train')
    write(folder, val or coco(2), 'annotations/instances_val.json', 'val')
    return folder


def write_label_maps(folder, values=(0, 1, 2), size=(48, 64), splits=('train', 'val')):
    """Images and label maps of bands of the given values."""
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


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'data'
