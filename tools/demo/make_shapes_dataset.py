"""Draw a small data set of overlapping shapes on textured backgrounds, in COCO's and ADE20K's layouts.

With --task coloured, each class has a range of colours and the shapes are large, so a small network learns in minutes.
With --task context, each image has a marker in one corner: a disc that is light or dark inside. Circles, triangles, the
light marker and the dark marker have one class each. Rectangles and stars have two classes each, and the marker of the
image determines the class.

An image depends only on the seed, the split and its index.
"""
import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

CLASSES = ('circle', 'triangle', 'rectangle', 'star')
CONTEXT_CLASSES = (
    'circle', 'triangle', 'rectangle (light)', 'star (light)', 'rectangle (dark)', 'star (dark)',  # the marker's colour
    'light marker', 'dark marker')
ANY_COLOUR = (40, 215)  # lowest and highest value
# For the coloured and context tasks: lowest and highest colour values of the background and of each kind of shape, in
# BGR. With these colours, the shapes are easy to find and to distinguish.
GREYS = (100, 155)
COLOURS = [((30, 30, 150), (90, 90, 230)), ((30, 150, 30), (90, 230, 90)), ((150, 90, 30), (230, 120, 90)),
           ((30, 150, 150), (90, 230, 230))]
COLOURED_STYLE = dict(contrast=20, radii=(.14, .28), greys=GREYS, colours=COLOURS, most=4)
CONTEXT_STYLE = dict(contrast=12, radii=(.14, .26), greys=GREYS, colours=COLOURS)
SPLITS = {'train': ('train2017', 'training'), 'val': ('val2017', 'validation')}  # COCO's and ADE20K's folder names
MAX_HIDDEN = 0.5  # a new shape must not hide a larger fraction of an earlier shape


def texture(rng, size, contrast, low=40, high=215):
    """Smooth random pattern (size, size, 3) around a random colour from `low` to `high`, values 0 to 255."""
    pattern = np.zeros((size, size, 3), np.float32)
    for cells in (2, 5, 12, 30):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        pattern += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    y, x = np.mgrid[:size, :size]
    stripes = np.sin(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y))
    pattern += rng.uniform(0, .5) * stripes[..., None]
    return np.clip(rng.uniform(low, high, 3) + contrast * pattern, 0, 255)


def outline(rng, kind, size, radii):
    """Corners (n, 2) in pixels of a random shape of class index `kind` inside the image.

    `radii` are the smallest and largest radius, as fractions of the image's side.
    """
    radius = rng.uniform(*radii) * size
    centre = rng.uniform(radius, size - radius, 2)
    turn = rng.uniform(0, 2 * np.pi)
    name = CLASSES[kind]
    if name == 'circle':
        angles, radii = np.linspace(0, 2 * np.pi, 48, endpoint=False), 1.
    elif name == 'triangle':
        angles, radii = np.arange(3) * 2 * np.pi / 3, 1.
    elif name == 'rectangle':
        half = rng.uniform(.35, .8)
        angles, radii = np.array([half, np.pi - half, np.pi + half, -half]), 1.
    else:
        angles, radii = np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, .45, 1.)
    angles = angles + turn
    return centre + radius * np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


ALL_COLOURS = (ANY_COLOUR,) * len(CLASSES)


def draw(rng, size, contrast=45, radii=(.09, .26), greys=ANY_COLOUR, colours=ALL_COLOURS, most=6):
    """Draw an image with 2 to `most` shapes, or fewer if they would hide each other.

    Returns:
        The image (size, size, 3) uint8, and a list of (class index, visible mask (size, size) bool).
    """
    image = texture(rng, size, contrast, *greys)
    shapes = []
    for _ in range(rng.integers(2, most + 1)):
        kind = int(rng.integers(len(CLASSES)))
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [np.round(outline(rng, kind, size, radii) * 16).astype(np.int32)], 1, shift=4)
        mask = mask.astype(bool)
        fill = texture(rng, size, 18, *colours[kind])
        if any((visible & mask).sum() > MAX_HIDDEN * visible.sum() for _, visible in shapes):
            continue
        image[mask] = fill[mask]
        shapes = [(other, visible & ~mask) for other, visible in shapes] + [(kind, mask)]
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), shapes


def add_marker(rng, image, shapes):
    """Draw a marker in a random corner. Returns the shapes and the marker as `draw` does, with class indices of
    `CONTEXT_CLASSES`."""
    size = len(image)
    radius, dark, corner = .1 * size, int(rng.integers(2)), rng.integers(2, size=2)
    y, x = np.mgrid[:size, :size] + .5
    centre_x, centre_y = np.where(corner, size - 1.2 * radius, 1.2 * radius)
    distance = np.hypot(x - centre_x, y - centre_y)[..., None]
    disc, inside = np.clip(radius - distance, 0, 1), np.clip(.75 * radius - distance, 0, 1)
    colour = 255. * ((1 - inside) if dark else inside)
    image[:] = np.round((1 - disc) * image + disc * colour)
    hidden = distance[..., 0] < radius
    kinds = [kind + 2 * dark if kind >= 2 else kind for kind, _ in shapes]
    shapes = [(kind, mask & ~hidden) for kind, (_, mask) in zip(kinds, shapes)]
    return [(kind, mask) for kind, mask in shapes if mask.any()] + [(6 + dark, hidden)]


def polygons(mask):
    """COCO polygons around the parts of a mask. They follow the outer edges of the pixels to a tenth of a pixel."""
    finer = 4  # contours run through pixel centres, so enlarge the mask first
    enlarged = np.kron(mask.astype(np.uint8), np.ones((finer, finer), np.uint8))
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour + .5) / finer).flatten().tolist() for contour in contours if len(contour) >= 3]


def run_lengths(mask):
    """COCO's compressed run-length encoding of a mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())


def coco_annotation(mask, kind, image_id, annotation_id, segmentation):
    y, x = np.nonzero(mask)
    box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    return dict(id=annotation_id, image_id=image_id, category_id=kind + 1, iscrowd=0, bbox=box, area=int(mask.sum()),
                segmentation=(segmentation == 'polygon' and polygons(mask)) or run_lengths(mask))


def label_map(shapes, size):
    """ADE20K's label map (size, size): 0 is not used, 1 is the background, the classes start at 2."""
    labels = np.ones((size, size), np.uint8)
    for kind, mask in shapes:
        labels[mask] = kind + 2
    return labels


def make_split(out, split, count, args):
    coco_name, ade_name = SPLITS[split]
    folders = [out / 'coco' / coco_name, out / 'coco' / 'annotations', out / 'ade' / 'images' / ade_name,
               out / 'ade' / 'annotations' / ade_name]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    classes = CONTEXT_CLASSES if args.task == 'context' else CLASSES
    coco = dict(info=dict(description='overlapping shapes', seed=args.seed, split=split), images=[], annotations=[],
                categories=[dict(id=i + 1, name=name) for i, name in enumerate(classes)])
    for index in tqdm(range(count), desc=f'drawing {split}', unit='image'):
        rng = np.random.default_rng([args.seed, list(SPLITS).index(split), index])
        if args.task == 'context':
            image, shapes = draw(rng, args.size, **CONTEXT_STYLE)
            shapes = add_marker(rng, image, shapes)
        else:
            image, shapes = draw(rng, args.size, **(COLOURED_STYLE if args.task == 'coloured' else {}))
        name = f'{index:06d}'
        for folder in (folders[0], folders[2]):
            cv2.imwrite(str(folder / f'{name}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folders[3] / f'{name}.png'), label_map(shapes, args.size))
        coco['images'].append(dict(id=index, file_name=f'{name}.jpg', height=args.size, width=args.size))
        for kind, mask in shapes:
            coco['annotations'].append(
                coco_annotation(mask, kind, index, len(coco['annotations']) + 1, args.segmentation))
    (folders[1] / f'instances_{coco_name}.json').write_text(json.dumps(coco))


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', type=Path, help='new folder for the data set: OUT/coco and OUT/ade')
    parser.add_argument('--task', choices=('shapes', 'coloured', 'context'), default='shapes',
                        help='coloured: a range of colours for each class; context: classes that depend on a '
                             'marker in a corner')
    parser.add_argument('--train', type=int, default=400, help='images to train on')
    parser.add_argument('--val', type=int, default=100, help='images for validation')
    parser.add_argument('--size', type=int, default=160, help='sides of the images in pixels, at least 32')
    parser.add_argument('--seed', type=int, default=0, help='random seed of all images')
    parser.add_argument('--segmentation', choices=('polygon', 'rle'), default='polygon', help="format of COCO's masks")
    args = parser.parse_args(argv)
    if args.size < 32 or min(args.train, args.val) < 1 or args.seed < 0:
        parser.error('--size must be at least 32, --train and --val at least 1, --seed at least 0')
    return args


def main(argv=None):
    args = parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        sys.exit(f'{args.out} exists already and is not changed. Name a new folder, or remove this folder')
    for split in SPLITS:
        make_split(args.out, split, getattr(args, split), args)
    print(f'{args.train} images to train on and {args.val} held out in {args.out}')


if __name__ == '__main__':
    main()
