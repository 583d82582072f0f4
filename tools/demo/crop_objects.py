"""Cut square crops of all objects in a COCO data set into one folder per class, as in ImageNet."""
import argparse
import sys
from pathlib import Path

import cv2
from pycocotools.coco import COCO
from tqdm import tqdm

SPLITS = ('train', 'val')


def square(image, box, size):
    """The square around a box (x, y, w, h) with a margin of 10%, inside the image, resized to `size`."""
    x, y, width, height = box
    half = .55 * max(width, height)
    middle_x, middle_y = x + width / 2, y + height / 2
    left, top = max(0, round(middle_x - half)), max(0, round(middle_y - half))
    crop = image[top:round(middle_y + half) + 1, left:round(middle_x + half) + 1]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)


def crop_split(coco, images, out, size):
    """Write the objects of one split to OUT/CLASS/ANNOTATION.jpg. Returns their number."""
    names = {category['id']: category['name'] for category in coco.loadCats(coco.getCatIds())}
    for name in names.values():
        (out / name).mkdir(parents=True)
    for image_id in tqdm(coco.getImgIds(), desc=f'cropping {out.name}', unit='image'):
        image = cv2.imread(str(images / coco.loadImgs(image_id)[0]['file_name']))
        for annotation in coco.loadAnns(coco.getAnnIds(image_id, iscrowd=False)):
            file = out / names[annotation['category_id']] / f"{annotation['id']:06d}.jpg"
            cv2.imwrite(str(file), square(image, annotation['bbox'], size), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return len(coco.getAnnIds(iscrowd=False))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('coco', type=Path, help='folder of a data set in COCO layout')
    parser.add_argument('out', type=Path, help='new folder: OUT/train and OUT/val')
    parser.add_argument('--size', type=int, default=64, help='sides of the crops in pixels')
    args = parser.parse_args(argv)
    if args.out.exists():
        sys.exit(f'{args.out} exists already and is not changed. Name a new folder, or remove this folder')
    counts = {}
    for split in SPLITS:
        coco = COCO(str(args.coco / 'annotations' / f'instances_{split}2017.json'))
        counts[split] = crop_split(coco, args.coco / f'{split}2017', args.out / split, args.size)
    print(f"{counts['train']} objects to train on and {counts['val']} held out in {args.out}")


if __name__ == '__main__':
    main()
